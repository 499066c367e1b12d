-- instance, fence, turn, then of each want: pool, used, need, wish, had, part, limit
local instance, fence = ARGV[6], tonumber(ARGV[7])
local members = roll(KEYS[2])
local me = members[instance]
if not me or me.fence ~= fence then return {life, changes, 'NOTFOUND'} end
local turn = tonumber(ARGV[8])
if me.turn > turn then return {life, changes, 'FENCED', num(me.turn)} end
me.turn = turn
redis.call('HSET', KEYS[2], instance, cmsgpack.pack(me))
local lost = tonumber(redis.call('HGET', H, 'lost') or 0)
-- Others may hold what the state has forgotten; they have one lease of time to say so.
local back = lost > 0 and ms < lost + me.ttl
local held = {}
local young = ms < tonumber(redis.call('HGET', H, 'born') or 0) + me.ttl
for i = 9, #ARGV, 7 do
  local pool, used, need = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local wish, had = tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4])
  local part, limit = tonumber(ARGV[i + 5]), tonumber(ARGV[i + 6])
  local row = redis.call('HGET', KEYS[3], pool)
  local kept, others, wanted, before = {}, 0, 0, 0
  for name, holding in pairs(row and cmsgpack.unpack(row) or {}) do
    local member = members[name]
    if name == instance and holding.fence == fence then before = holding.held end
    if name ~= instance and member and member.fence == holding.fence then
      kept[name] = holding
      others, wanted = others + holding.held, wanted + holding.wanted
    end
  end
  local mine = math.min(wish, math.max(limit - others, 0))
  if back then mine = math.min(mine, had) elseif young then mine = math.min(mine, math.max(had, part)) end
  mine = math.max(mine, used)
  local missing = math.max(need - mine, 0)
  if mine > 0 or missing > 0 then kept[instance] = {fence = fence, held = mine, wanted = missing} end
  if next(kept) then redis.call('HSET', KEYS[3], pool, cmsgpack.pack(kept)) else redis.call('HDEL', KEYS[3], pool) end
  if missing > 0 then tell('hold ' .. pool .. ' ' .. instance) end
  if mine < before and wanted > 0 then tell('free ' .. pool) end
  for _, x in ipairs({mine, others + mine, wanted}) do held[#held + 1] = num(x) end
end
return {life, changes, 'OK', held}
