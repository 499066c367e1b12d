-- Begins every script: whose life is this, and has it gone back? Ends it with what was seen if so.
-- KEYS[1] the shard's head; ARGV: life seen, changes seen, a new life, time to live in ms (0: none), the shard's channel.
local H, TTL, CHANNEL = KEYS[1], tonumber(ARGV[4]), ARGV[5]
local head = redis.call('HMGET', H, 'life', 'changes')
local life, changes = head[1], tonumber(head[2] or 0)
if not life then
  life = ARGV[3]
  redis.call('HSET', H, 'life', life, 'changes', 0)
end
if ARGV[1] ~= '' and (ARGV[1] ~= life or changes < tonumber(ARGV[2])) then
  if ARGV[1] == life then
    life = ARGV[3]
    redis.call('HSET', H, 'life', life)
  end
  local t = redis.call('TIME')
  redis.call('HSET', H, 'lost', t[1] * 1000 + math.floor(t[2] / 1000))
  return {life, changes, 'LOST'}
end
