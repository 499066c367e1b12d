-- prefix of jobs, instance, lease in ms, most, count of handlers, handlers, then jobs of its own
local jobs, instance, lease, most = ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local can, mine, names = {}, {}, {}
local first = 11 + tonumber(ARGV[10])
for i = 11, first - 1 do can[ARGV[i]] = true end
for i = first, #ARGV do
  mine[ARGV[i]] = true
  names[#names + 1] = ARGV[i]
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', LIVE, '-inf', ms, 'LIMIT', 0, most)) do
  if not mine[name] then names[#names + 1] = name end
end
local tasks, vanished, over = {}, {}, {}
for _, name in ipairs(names) do
  local J = jobs .. name
  local m = redis.call('HMGET', J, 'epoch', 'stage', 'moved', 'watchdog', 'touched', 'free', 'holder', 'owner', 'handler',
    'payload', 'lease', 'left', 'attempts')
  local stage = m[2]
  if not stage then
    if redis.call('ZREM', LIVE, name) == 1 then vanished[#vanished + 1] = name end
  elseif stage == 'acknowledged' then
    over[#over + 1] = name
    over[#over + 1] = m[1]
  else
    local moved, watchdog, touched, free = tonumber(m[3]), tonumber(m[4]), tonumber(m[5]), tonumber(m[6])
    if stage == 'open' and watchdog > 0 and moved + watchdog <= ms then
      stage, free = 'stalled', ms + tonumber(m[11])
      redis.call('HSET', J, 'stage', stage, 'free', free)
    end
    if TTL > 0 and ms >= touched + TTL / 4 then
      touched = ms
      redis.call('HSET', J, 'touched', ms)
      touch(J)
    end
    if stage ~= 'open' and can[m[9]] and (free <= ms or not m[7] and m[8] == instance) then
      local fence = num(next_fence())
      local attempt = tonumber(m[13]) + 1
      free = ms + lease
      redis.call('HSET', J, 'holder', instance, 'fence', fence, 'free', free, 'attempts', attempt)
      for _, word in ipairs({name, m[1], fence, m[9], m[10], stage, m[12], tostring(attempt)}) do tasks[#tasks + 1] = word end
    end
    -- What nobody here can run is looked at again after a while, not at once.
    redis.call('ZADD', LIVE, math.max(attention(stage, moved, watchdog, touched, free), ms + lease / 2), name)
  end
end
return {life, changes, 'OK', tasks, vanished, over}
