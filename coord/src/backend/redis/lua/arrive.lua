-- request, set, member, 1 or 0, status
local W = KEYS[2]
if redis.call('EXISTS', W) == 0 then return {life, changes, 'NOTFOUND'} end
if ARGV[9] == '1' then redis.call('HSET', W, 's' .. ARGV[7], ARGV[10]) end
local gone = redis.call('HDEL', W, 'p' .. ARGV[7] .. ' ' .. ARGV[8])
local left = redis.call('HINCRBY', W, 'n', gone == 1 and -1 or 0)
touch(W)
if gone == 1 and left == 0 then tell('request ' .. ARGV[6]) end
return {life, changes, 'OK', left}
