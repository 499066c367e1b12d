-- What most scripts that change something need.
local function num(x) return string.format('%.0f', x) end
local function touch(key) if TTL > 0 then redis.call('PEXPIRE', key, TTL) end end
local function tell(words) redis.call('SPUBLISH', CHANNEL, words) end
-- Greater than every fence before it, also before a loss: as long as the server's clock goes forward.
local function next_fence()
  local fence = math.max(tonumber(redis.call('HGET', H, 'fence') or 0) + 1, us)
  redis.call('HSET', H, 'fence', num(fence))
  return fence
end
