-- The state is not what was seen, or nobody has seen it yet: finds out which, and ends the script if it was lost.
if not changes or changes < tonumber(ARGV[2]) then
  life = redis.call('HGET', H, 'life')
  local lost = ARGV[1] ~= ''
  if not life or life == ARGV[1] then
    -- There is none, or it has gone back: a new life, so that everybody notices.
    if life then redis.call('HDEL', H, life) end
    local t = redis.call('TIME')
    -- From one on, so that a life that is there is told from one that counting has just made.
    changes = math.max(changes or 1, 1)
    life = ARGV[3]
    redis.call('HSET', H, 'life', life, life, changes, 'born', t[1] * 1000 + math.floor(t[2] / 1000))
  else
    changes = tonumber(redis.call('HGET', H, life))
  end
  if lost then
    local t = redis.call('TIME')
    redis.call('HSET', H, 'lost', t[1] * 1000 + math.floor(t[2] / 1000))
    return {life, changes, 'LOST'}
  end
end
