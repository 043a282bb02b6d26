-- The protocol of factflow_llm/ratelimit/shared.py, said once more in Redis: see there for what it does and why.
-- tests/test_shared_stores.py holds the two to the same grants.
--
-- KEYS: the quota's hash; a sorted set of members by the end of their leases; a hash of their last words.
-- ARGV: the report as JSON. Returns the grant as JSON.

local LEASE_S, ROTATE_S, LONG_AGO_S, KEPT_S, ANSWERED_S, SAMPLES = 5.0, 60.0, -1e9, 604800, 2.5, 40
local QUOTA, LEASES, WORDS = KEYS[1], KEYS[2], KEYS[3]
local report = cjson.decode(ARGV[1])
local null = cjson.null

local function given(value)
  if value == null then return nil end
  return value
end

local function decoded(text)
  if text then return cjson.decode(text) end
end

local clock = redis.call('TIME')
local state = {}
local raw = redis.call('HGETALL', QUOTA)
for i = 1, #raw, 2 do state[raw[i]] = raw[i + 1] end
local born = tonumber(state.born or clock[1])
local now = (tonumber(clock[1]) - born) + tonumber(clock[2]) / 1e6
local epoch = tonumber(state.epoch or 0)
local learning_until_s = tonumber(state.learning_until_s or 0)
local closed_until_s = tonumber(state.closed_until_s or 0)
local closed_by = state.closed_by or ''
local leader = state.leader or ''
local law = decoded(state.law)
local asked = decoded(state.asked) or {0, 0, 0} -- its number, the moment it is about, and when it was asked
local rejected = decoded(state.rejected) -- the axis it named, and who reported it
local reopened = decoded(state.reopened) -- when, and the doubt
local settled_s = tonumber(state.settled_s or LONG_AGO_S)
local breaker_until_s = tonumber(state.breaker_until_s or '')
local exhausted = decoded(state.exhausted)
local gone = decoded(state.gone) or {0, 0, 0}
local shown = decoded(state.shown) or {}

local function keep(field, value)
  if value == nil then redis.call('HDEL', QUOTA, field) else redis.call('HSET', QUOTA, field, value) end
end

-- A member's words: heard_s, share, slots, limited_s, weight, wants, wants_slots, in_flight, admitted, per_s,
-- and the answer, or false.
local members = {}
raw = redis.call('HGETALL', WORDS)
for i = 1, #raw, 2 do members[raw[i]] = cmsgpack.unpack(raw[i + 1]) end

local function drop(name)
  local admitted = members[name] and members[name][9] or {0, 0, 0}
  for unit = 1, 3 do gone[unit] = gone[unit] + admitted[unit] end
  members[name] = nil
  redis.call('HDEL', WORDS, name)
  redis.call('ZREM', LEASES, name)
  keep('gone', cjson.encode(gone))
end

-- drop the dead
for _, name in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', string.format('(%.17g', now))) do drop(name) end

-- take what a member knows and the state does not
local name = report.member
local told = given(report.law)
local forgot = report.born ~= born and law == nil
if told and (forgot or report.epoch > epoch) then
  law, epoch = told, math.max(report.epoch, epoch)
  if report.born ~= 0 then learning_until_s = now + LEASE_S end
end
if name == leader and (asked[1] == 0 or report.seen == asked[1]) then
  if rejected then rejected, reopened, settled_s = nil, nil, now end
  asked = {asked[1] + 1, now, now}
end
local refused = given(report.rejected)
if refused and not rejected and now - refused.ago_s >= settled_s then
  epoch = epoch + 1
  rejected, reopened = {refused.axis, name}, nil
  asked = {asked[1] + 1, now - refused.ago_s, now}
  if law then
    for axis, rate in pairs(law.fall_back) do law.rates[axis] = rate end
    law.slots = law.slots_before
  end
end
local again = given(report.reopened)
if again and rejected and name == rejected[2] then reopened = {now - again.ago_s, again.doubt_s} end
if name == closed_by or now + report.closed_s > closed_until_s then
  closed_until_s, closed_by = now + report.closed_s, name
end
if given(report.breaker_s) then
  breaker_until_s = report.breaker_s > 0 and now + report.breaker_s or nil
  keep('breaker_until_s', breaker_until_s and string.format('%.17g', breaker_until_s))
  exhausted = breaker_until_s and given(report.exhausted) and {report.exhausted, now} or nil
  keep('exhausted', exhausted and cjson.encode(exhausted))
end
for axis, header in pairs(report.shown) do
  local known = shown[axis]
  if not known or now - header.ago_s > known[2] - known[1].ago_s then
    shown[axis] = {header, now}
    keep('shown', cjson.encode(shown))
  end
end

local before = members[name]
local limited_s = report.limited and now or (before and before[4]) or LONG_AGO_S
local me = {now, 0, 0, limited_s, report.weight, report.wants, report.wants_slots, report.in_flight, report.admitted,
            report.per_s, given(report.answer) or false}
members[name] = me

if name == leader and told and report.epoch == epoch then law = told end

-- elect
local led = members[leader]
if not led or (report.limited and now - led[4] > LEASE_S) then
  leader = name
  me[4] = now
end

local names, weights, weight, number = {}, {}, 0, 0
for other in pairs(members) do names[#names + 1] = other end
table.sort(names)
for i, other in ipairs(names) do
  weights[i] = members[other][5]
  weight = weight + weights[i]
  if other == name then number = i end
end

local function levelled(total, wants)
  local order, got, left, heavy = {}, {}, total, weight
  for i = 1, #wants do order[i] = i end
  table.sort(order, function(a, b)
    local one, other = wants[a] / weights[a], wants[b] / weights[b]
    if one == other then return a < b end
    return one < other
  end)
  for _, i in ipairs(order) do
    got[i] = math.min(wants[i], left * weights[i] / heavy)
    left = left - got[i]
    heavy = heavy - weights[i]
  end
  return got
end

local function share()
  local rate = law and given(law.calls_per_s)
  if not rate then return me[5] / weight end
  local seen, priorities = {}, {}
  for _, other in ipairs(names) do
    for priority in pairs(members[other][6]) do
      if not seen[priority] then
        seen[priority] = true
        priorities[#priorities + 1] = priority
      end
    end
  end
  table.sort(priorities, function(a, b) return tonumber(a) > tonumber(b) end)
  local left, mine = 1.0, 0.0
  for _, priority in ipairs(priorities) do
    local wants, sum = {}, 0.0
    for i, other in ipairs(names) do wants[i] = (members[other][6][priority] or 0.0) / rate end
    local got = levelled(left, wants)
    for i = 1, #got do sum = sum + got[i] end
    mine = mine + got[number]
    left = math.max(left - sum, 0.0)
  end
  return mine + left * weights[number] / weight
end

local function whole()
  local slots = math.floor(law.slots)
  if law.slots_open and next(law.rates) then return math.max(slots, #names) end
  return slots
end

local function slots()
  local total, wants, sum = whole(), {}, 0.0
  for i, other in ipairs(names) do wants[i] = members[other][7] end
  local parts = levelled(total, wants)
  for i = 1, #parts do sum = sum + parts[i] end
  local rest, even = math.max(total - sum, 0.0), 0
  for i = 1, #parts do
    parts[i] = parts[i] + rest * weights[i] / weight
    even = even + math.floor(parts[i] + 1e-9)
  end
  local turn = (number - 1 + math.floor(now / ROTATE_S)) % #names
  return math.floor(parts[number] + 1e-9) + (turn < total - even and 1 or 0)
end

local held, taken, in_flight, admitted, per_s = 0, 0.0, 0, {gone[1], gone[2], gone[3]}, {0, 0, 0}
for _, other in ipairs(names) do
  if other ~= name then
    local words = members[other]
    taken = taken + words[2]
    held = held + math.max(words[3], words[8])
    in_flight = in_flight + words[8]
    for unit = 1, 3 do
      admitted[unit] = admitted[unit] + words[9][unit] + words[10][unit] * (now - words[1])
      per_s[unit] = per_s[unit] + words[10][unit]
    end
  end
end
local part = before and 1.0 or 0.5
me[2] = math.min(now < learning_until_s and report.share or share(), part * math.max(1.0 - taken, 0.0))
local mine = null
if law then
  mine = math.max(math.min(slots(), math.ceil(part * (whole() - held))), 0)
  me[3] = mine
end

-- what all have answered, for the leader
local function all_answered()
  for _, other in ipairs(names) do
    local answer = members[other][11]
    if not answer or answer.number ~= asked[1] then return false end
  end
  return true
end

local function see()
  local waited_s = now - asked[3]
  if asked[1] == 0 or (waited_s < ANSWERED_S and not all_answered()) then return null end
  if rejected and not reopened then
    if waited_s < LEASE_S and members[rejected[2]] then return null end
    reopened = {0.5 * (asked[2] + now), 0.5 * (now - asked[2])}
  end
  local sum, flights = {gone[1], gone[2], gone[3]}, {}
  for i = 1, SAMPLES do flights[i] = 0 end
  for _, other in ipairs(names) do
    local words, answer = members[other], members[other][11]
    local answered = answer and answer.number == asked[1]
    for unit = 1, 3 do
      local carried = words[9][unit] + words[10][unit] * (asked[2] - words[1])
      sum[unit] = sum[unit] + (answered and answer.admitted[unit] or carried)
    end
    for i = 1, SAMPLES do flights[i] = flights[i] + (answered and answer.in_flight[i] or words[8]) end
  end
  local ago_s = now - asked[2]
  local seen = {ago_s = ago_s, admitted = sum, in_flight = flights, rejected = null, reopened = null}
  if rejected then
    seen.rejected = {ago_s = ago_s, axis = rejected[1]}
    seen.reopened = {ago_s = now - reopened[1], doubt_s = reopened[2]}
  end
  return seen
end

local seen = null
if name == leader then seen = see() end

-- keep
redis.call('ZADD', LEASES, string.format('%.17g', now + LEASE_S), name)
redis.call('HSET', WORDS, name, cmsgpack.pack(me))
redis.call('HSET', QUOTA, 'born', born, 'epoch', epoch, 'leader', leader,
  'learning_until_s', string.format('%.17g', learning_until_s),
  'closed_until_s', string.format('%.17g', closed_until_s), 'closed_by', closed_by,
  'asked', cjson.encode(asked), 'settled_s', string.format('%.17g', settled_s))
keep('rejected', rejected and cjson.encode(rejected))
keep('reopened', reopened and cjson.encode(reopened))
if law then keep('law', cjson.encode(law)) end
for i = 1, 3 do redis.call('EXPIRE', KEYS[i], KEPT_S) end

-- grant
local why = null
if exhausted then
  why = exhausted[1]
  if given(why.resumes_s) then why.resumes_s = math.max(why.resumes_s + exhausted[2] - now, 0.0) end
end
local headers = {}
for axis, known in pairs(shown) do
  headers[axis] = known[1]
  headers[axis].ago_s = known[1].ago_s + now - known[2]
end
if report.leaves then drop(name) end
return cjson.encode({
  share = me[2], slots = mine, leads = name == leader, members = #names, born = born,
  epoch = epoch, law = law or null, others_admitted = admitted, others_per_s = per_s, others_in_flight = in_flight,
  asked = {number = asked[1], ago_s = now - asked[2], hurry = rejected ~= nil}, seen = seen,
  closed_s = name == closed_by and 0 or math.max(closed_until_s - now, 0.0),
  breaker_s = breaker_until_s and math.max(breaker_until_s - now, 0.0) or null, exhausted = why,
  shown = headers,
})
