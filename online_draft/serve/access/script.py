"""The shared buckets' one step in Redis, atomic: look at all of them, then take from all or from none."""

from __future__ import annotations

TAKE = """
-- KEYS: epoch, leases, bucket...
-- ARGV: epoch known to the caller, epoch to begin with, lease id or '', lease limit, lease time,
--       then for each bucket: cost, burst, full_at as last seen, excess of the caller's share, forced
-- An epoch ends when Redis loses its memory; what callers saw last then stands in for it.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('SET', KEYS[1], ARGV[2], 'NX')
local epoch = redis.call('GET', KEYS[1])
local lost = ARGV[1] ~= '' and ARGV[1] ~= epoch
local allowed = 1
local streams = 0
if ARGV[3] ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
  streams = redis.call('ZCARD', KEYS[2])
  if streams >= tonumber(ARGV[4]) and not redis.call('ZSCORE', KEYS[2], ARGV[3]) then allowed = 0 end
end
local full, cost, limit, healed = {}, {}, {}, {}
for i = 1, #KEYS - 2 do
  local at = 5 * i
  local seen, excess = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local known = tonumber(redis.call('GET', KEYS[i + 2]) or '0')
  cost[i], limit[i] = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  full[i] = math.max(known, now)
  if lost then full[i] = math.max(full[i], math.min(seen, now + limit[i])) end
  full[i] = full[i] + excess
  healed[i] = lost or excess ~= 0
  if ARGV[at + 5] == '0' and full[i] + cost[i] > now + limit[i] + 1 then allowed = 0 end
end
for i = 1, #KEYS - 2 do
  local after = full[i]
  if allowed == 1 or ARGV[5 * i + 5] == '1' then after = after + cost[i] end
  if allowed == 1 or healed[i] or ARGV[5 * i + 5] == '1' then
    local left = math.ceil((after - now) / 1000)
    if left > 0 then
      redis.call('SET', KEYS[i + 2], string.format('%.0f', after), 'PX', string.format('%.0f', left))
    else
      redis.call('DEL', KEYS[i + 2])
    end
  end
  full[i] = string.format('%.0f', after)
end
if allowed == 1 and ARGV[3] ~= '' then
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[5]), ARGV[3])
  redis.call('PEXPIRE', KEYS[2], string.format('%.0f', ARGV[5] / 1000))
end
return {allowed, string.format('%.0f', now), epoch, streams, unpack(full)}
"""

MEET = """
-- KEYS: ingresses, leases...
-- ARGV: this ingress, how long it counts, lease time, then for each of the leases its id
-- This ingress is there; its leases go on; how many ingresses there are.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ARGV[2] / 1000))
for i = 2, #KEYS do
  redis.call('ZADD', KEYS[i], string.format('%.0f', now + ARGV[3]), ARGV[i + 2])
  redis.call('PEXPIRE', KEYS[i], string.format('%.0f', ARGV[3] / 1000))
end
return redis.call('ZCARD', KEYS[1])
"""
