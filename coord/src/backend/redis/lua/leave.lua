local members = roll(KEYS[2])
local me = members[ARGV[6]]
if not me or me.fence ~= tonumber(ARGV[7]) then return {life, changes, 'OK', 0} end
redis.call('HDEL', KEYS[2], ARGV[6])
tell('left ' .. ARGV[6])
return {life, changes, 'OK', 1}
