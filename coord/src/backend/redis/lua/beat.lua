-- instance, life, ttl in ms, info, then cell names and values
local instance, given, ttl = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local members = roll(KEYS[2])
local known = members[instance]
if known and known.life > given then return {life, changes, 'FENCED', num(known.fence)} end
local fence, since, turn
if known and known.life == given then fence, since, turn = known.fence, known.since, known.turn
else fence, since, turn = next_fence(), ms, 0 end
local cells = {}
for i = 10, #ARGV, 2 do cells[ARGV[i]] = tonumber(ARGV[i + 1]) end
local me = {life = given, fence = fence, since = since, ttl = ttl, info = ARGV[9], cells = cells, turn = turn}
me['until'] = ms + ttl
members[instance] = me
redis.call('HSET', KEYS[2], instance, cmsgpack.pack(me))
local all, sums = {}, {}
for name, member in pairs(members) do
  for _, word in ipairs({name, num(member.fence), num(ms - member.since), num(member['until'] - ms), member.info}) do
    all[#all + 1] = word
  end
  if name ~= instance then
    for cell, value in pairs(member.cells) do sums[cell] = (sums[cell] or 0) + value end
  end
end
local others = {}
for cell, value in pairs(sums) do
  others[#others + 1] = cell
  others[#others + 1] = num(value)
end
return {life, changes, 'OK', num(fence), all, others}
