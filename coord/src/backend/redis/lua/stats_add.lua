-- name of the key, prefix of keys, who adds, number of the addition, processed, errors, requeues, most. KEYS[3] orders them by age.
local S = KEYS[2]
local seen = tonumber(redis.call('HGET', S, 'f' .. ARGV[8]) or 0)
if tonumber(ARGV[9]) > seen then
  redis.call('HSET', S, 'f' .. ARGV[8], ARGV[9])
  redis.call('HINCRBY', S, 'p', ARGV[10])
  redis.call('HINCRBY', S, 'e', ARGV[11])
  redis.call('HINCRBY', S, 'r', ARGV[12])
end
touch(S)
redis.call('ZADD', KEYS[3], us, ARGV[6])
local over = redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[13])
if over > 0 then
  for _, oldest in ipairs(redis.call('ZRANGE', KEYS[3], 0, over - 1)) do redis.call('DEL', ARGV[7] .. oldest) end
  redis.call('ZREMRANGEBYRANK', KEYS[3], 0, over - 1)
end
local s = redis.call('HMGET', S, 'p', 'e', 'r')
return {life, changes, 'OK', s[1] or '0', s[2] or '0', s[3] or '0'}
