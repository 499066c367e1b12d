-- name, epoch, fence, lease in ms
local J = KEYS[3]
local status, what = not_held(J)
if status then return {life, changes, status, what} end
if what == 'acknowledged' then return {life, changes, 'NOTFOUND'} end
local free = ms + tonumber(ARGV[9])
redis.call('HSET', J, 'free', free)
local touched = tonumber(redis.call('HGET', J, 'touched'))
redis.call('ZADD', LIVE, attention(what, 0, 0, touched, free), ARGV[6])
return {life, changes, 'OK', ARGV[8]}
