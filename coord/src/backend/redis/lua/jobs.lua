-- What scripts on jobs share. KEYS[2] the list of jobs to look at, by time. A job is a hash: its parts are
-- fields that begin with a slash, so that settling one reads and writes one key.
local LIVE = KEYS[2]
-- When something must be looked at by itself.
local function attention(stage, moved, watchdog, touched, free)
  local at = 9e15
  if stage ~= 'open' then at = free elseif watchdog > 0 then at = moved + watchdog end
  if TTL > 0 then at = math.min(at, touched + TTL / 4) end
  return at
end
-- Ends the job if nothing is left of it, and plans when to look at it again.
local function settle_down(key, name)
  local m = redis.call('HMGET', key, 'stage', 'sealed', 'left', 'lease', 'moved', 'watchdog', 'touched', 'free', 'epoch', 'owner')
  local stage, free = m[1], tonumber(m[8])
  local ends = stage == 'open' and m[2] == '1' and tonumber(m[3]) == 0
  if ends then
    stage, free = 'complete', ms + tonumber(m[4])
    redis.call('HSET', key, 'stage', stage, 'free', free)
  end
  redis.call('ZADD', LIVE, attention(stage, tonumber(m[5]), tonumber(m[6]), tonumber(m[7]), free), name)
  if ends then tell('ended ' .. name .. ' ' .. m[9] .. ' ' .. m[10]) end
  return ends
end
-- What is left: a word and a number.
local function left_of(key)
  local m = redis.call('HMGET', key, 'stage', 'sealed', 'left')
  if m[1] == 'open' then return (m[2] == '1' and 'sealed' or 'open'), m[3] end
  if m[1] == 'complete' then return 'sealed', '0' end
  return 'over', '0'
end
-- Compares epochs: a word and a number if it is not this one, else nothing.
local function not_this(key, given)
  local epoch = redis.call('HGET', key, 'epoch')
  if not epoch or tonumber(epoch) < tonumber(given) then return 'unknown', '0' end
  if tonumber(epoch) > tonumber(given) then return 'stale', epoch end
end
local function add_parts(key, from)
  local added = 0
  for i = from, #ARGV do added = added + redis.call('HSETNX', key, '/' .. ARGV[i], '0') end
  if added > 0 then
    redis.call('HINCRBY', key, 'left', added)
    redis.call('HINCRBY', key, 'parts', added)
  end
end
