-- Whoever had seen nothing is counted here; and the clock.
if ARGV[1] == '' then redis.call('HINCRBY', H, life, 1) end
changes = changes + 1
local t = redis.call('TIME')
local us = t[1] * 1000000 + t[2]
local ms = math.floor(us / 1000)
