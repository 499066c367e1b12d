-- request, set, then members. Fields: 'n' counts what is pending, 'p' set ' ' member is pending, 's' set is a status.
local W = KEYS[2]
redis.call('HSETNX', W, 'n', 0)
local added = 0
for i = 8, #ARGV do added = added + redis.call('HSETNX', W, 'p' .. ARGV[7] .. ' ' .. ARGV[i], '1') end
touch(W)
return {life, changes, 'OK', redis.call('HINCRBY', W, 'n', added)}
