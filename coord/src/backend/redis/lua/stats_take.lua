-- name of the key, time to remember in ms. KEYS[3] orders them by age, KEYS[4] is what this token took.
local s = redis.call('HMGET', KEYS[4], 'p', 'e', 'r')
if s[1] then return {life, changes, 'OK', s[1], s[2], s[3]} end
s = redis.call('HMGET', KEYS[2], 'p', 'e', 'r')
if not s[1] then return {life, changes, 'OK'} end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[6])
redis.call('HSET', KEYS[4], 'p', s[1], 'e', s[2], 'r', s[3])
redis.call('PEXPIRE', KEYS[4], ARGV[7])
return {life, changes, 'OK', s[1], s[2], s[3]}
