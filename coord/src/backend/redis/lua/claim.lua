local c = redis.call('HMGET', KEYS[2], 't', 'f')
if not c[1] and redis.call('EXISTS', KEYS[2]) == 1 then return {life, changes, 'WRONGTYPE', 'not a claim'} end
if c[1] and c[1] ~= ARGV[6] then return {life, changes, 'OK', 'held', c[1], redis.call('PTTL', KEYS[2])} end
local fence = c[2] or num(next_fence())
redis.call('HSET', KEYS[2], 't', ARGV[6], 'f', fence)
redis.call('PEXPIRE', KEYS[2], ARGV[7])
return {life, changes, 'OK', 'granted', fence}
