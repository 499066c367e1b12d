-- name, epoch, fence: whether this is the holder; a status and a number if not.
local function not_held(key)
  local m = redis.call('HMGET', key, 'epoch', 'fence', 'stage')
  local epoch, given = tonumber(m[1] or -1), tonumber(ARGV[7])
  if epoch > given then return 'FENCED', m[1] end
  if epoch < given or not m[2] then return 'NOTFOUND', '0' end
  if m[2] ~= ARGV[8] then return 'FENCED', m[2] end
  return nil, m[3]
end
