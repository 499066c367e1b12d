-- name, epoch
local word = not_this(KEYS[3], ARGV[7])
if word then return {life, changes, 'OK', 0} end
redis.call('ZREM', LIVE, ARGV[6])
return {life, changes, 'OK', redis.call('DEL', KEYS[3])}
