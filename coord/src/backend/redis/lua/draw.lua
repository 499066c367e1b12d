-- a second's worth, burst, least, most
local rate, burst, least, most = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local b = redis.call('HMGET', KEYS[2], 'level', 'at')
local level = burst
if b[1] then level = math.min(burst, tonumber(b[1]) + math.max(us - tonumber(b[2]), 0) / 1000000 * rate) end
-- What is larger than the bucket passes when it is full, and is paid back after it.
local enough = level >= math.min(least, burst)
local granted, wait = 0, 0
if enough then granted = math.max(math.min(level, most), least)
elseif rate > 0 then wait = (math.min(least, burst) - level) / rate end
redis.call('HSET', KEYS[2], 'level', string.format('%.17g', level - granted), 'at', num(us))
-- When it would be full again it need not be remembered: whatever is not there is full.
local full = math.max(burst - (level - granted), 0) / math.max(rate, 0.000000001)
redis.call('PEXPIRE', KEYS[2], num(math.min(full, 1000000000) * 1000 + 1000))
return {life, changes, 'OK', string.format('%.17g', granted), string.format('%.17g', wait)}
