-- shown
local J = KEYS[2]
local m = redis.call('HMGET', J, 'epoch', 'stage', 'sealed', 'left', 'parts', 'owner', 'handler', 'holder', 'fence', 'attempts',
  'opened', 'moved', 'watchdog', 'free')
if not m[1] then return {life, changes, 'OK'} end
local t = redis.call('TIME')
local ms = t[1] * 1000 + math.floor(t[2] / 1000)
local pending, cursor = {}, '0'
repeat
  local page = redis.call('HSCAN', J, cursor, 'MATCH', '/*', 'COUNT', 500)
  cursor = page[1]
  for i = 1, #page[2], 2 do
    if page[2][i + 1] == '0' then pending[#pending + 1] = string.sub(page[2][i], 2) end
  end
until cursor == '0'
table.sort(pending)
for i = #pending, tonumber(ARGV[6]) + 1, -1 do pending[i] = nil end
local due = ''
if m[2] == 'open' then
  if tonumber(m[13]) > 0 then due = tonumber(m[12]) + tonumber(m[13]) - ms end
elseif m[2] ~= 'acknowledged' then due = tonumber(m[14]) - ms end
return {life, changes, 'OK', m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8] or '', m[9] or '', m[10],
  ms - tonumber(m[11]), ms - tonumber(m[12]), tostring(due), pending}
