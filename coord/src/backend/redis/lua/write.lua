-- Follows the prelude in every script that changes something: counts it, and reads the clock.
changes = changes + 1
redis.call('HSET', H, 'changes', changes)
local t = redis.call('TIME')
local us = t[1] * 1000000 + t[2]
local ms = math.floor(us / 1000)
