-- What a change does to one key, and what its type must be; shared by primitives and acknowledgements.
local function other_type(key, kind)
  local found = redis.call('TYPE', key).ok
  if found == 'none' then return false end
  local want = {counter = 'string', set = 'set', list = 'list', value = 'hash'}
  if found ~= want[kind] then return found end
  if kind == 'value' and redis.call('HEXISTS', key, 'b') == 0 then return 'another hash' end
  return false
end
