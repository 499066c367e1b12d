-- Without an end: work that waits for longer than any time to live must still find itself stale.
local v = redis.call('HMGET', KEYS[2], 'n', 'by')
if not v[1] and redis.call('EXISTS', KEYS[2]) == 1 then return {life, changes, 'WRONGTYPE', 'not a version'} end
if v[2] == ARGV[6] then return {life, changes, 'OK', v[1]} end
local n = redis.call('HINCRBY', KEYS[2], 'n', 1)
redis.call('HSET', KEYS[2], 'by', ARGV[6])
redis.call('PERSIST', KEYS[2])
return {life, changes, 'OK', num(n)}
