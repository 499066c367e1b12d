-- Begins every script: whose life is this, and has it gone back?
-- KEYS[1] the shard's head: `life` names its life, and a field of that name counts its changes.
-- ARGV: life seen, changes seen, a new life, time to live in ms (0: none), the shard's channel.
local H, TTL, CHANNEL = KEYS[1], tonumber(ARGV[4]), ARGV[5]
local life, changes = ARGV[1], nil
