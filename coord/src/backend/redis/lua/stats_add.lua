-- name of the key, prefix of keys, who adds, number of the addition, processed, errors, requeues, most. KEYS[3] orders them by age.
local S = KEYS[2]
local seen = tonumber(redis.call('HGET', S, 'f' .. ARGV[8]) or 0)
local new = tonumber(ARGV[9]) > seen
if new then redis.call('HSET', S, 'f' .. ARGV[8], ARGV[9]) end
for field, more in pairs({p = ARGV[10], e = ARGV[11], r = ARGV[12]}) do redis.call('HINCRBY', S, field, new and more or 0) end
touch(S)
redis.call('ZADD', KEYS[3], us, ARGV[6])
local over = redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[13])
if over > 0 then
  for _, oldest in ipairs(redis.call('ZRANGE', KEYS[3], 0, over - 1)) do redis.call('DEL', ARGV[7] .. oldest) end
  redis.call('ZREMRANGEBYRANK', KEYS[3], 0, over - 1)
end
local s = redis.call('HMGET', S, 'p', 'e', 'r')
return {life, changes, 'OK', s[1] or '0', s[2] or '0', s[3] or '0'}
