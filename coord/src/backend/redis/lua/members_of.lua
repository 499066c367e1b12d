-- The instances that live, by name; those whose time is over are removed.
local function roll(key)
  local members = {}
  local rows = redis.call('HGETALL', key)
  for i = 1, #rows, 2 do
    local member = cmsgpack.unpack(rows[i + 1])
    if member['until'] <= ms then redis.call('HDEL', key, rows[i]) else members[rows[i]] = member end
  end
  return members
end
