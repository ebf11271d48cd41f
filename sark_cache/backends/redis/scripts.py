"""The scripts that run on the server, and the format of the invalidation log.

The server runs each script as one step.

The log is a list of at most `MAX_RECORDS` records, newest first. Each is `{id} {moment} {record}`:

| part | |
|---|---|
| id | 24 random hexadecimal digits |
| moment | the server's time, 13 digits of milliseconds |
| record | a JSON object with the fields and tags of the revocation, its `keys` or its `pattern` |

A *position* is the id of the record that was newest when an evaluation began. The records in front
of it are newer. A decision is stored if none of them matches it. A position that is not in the log
is unknown: the log was cut, flushed, evicted, or lost by a failover. Then nothing is stored. Ids
are random, because a server that lost records could assign a number or a time a second time.

A stamp that was taken before this process knew any position has an *age* instead, `{age}:{time}`:
the milliseconds since the stamp, and the time of the stamp by this process's clock. Both have a
margin of `AGE_MARGIN_MS`. A record is older than the stamp if it is older by both clocks. If the
log has no such record, nothing is stored.

A decision with a short time to live may expire before an older evaluation ends. That evaluation
would find the key empty and store its decision. So the newer decision leaves a *marker* beside its
key, which lives for `MARKER_MS`.

Scripts are sent whole, with EVAL. The server caches them by hash anyway, and a server that was
restarted or promoted needs no preparation.
"""

MAX_RECORDS = 1024

RESERVATION = "reservation:"
"""The prefix of the value that reserves a key on a cluster. The id of the write follows it."""
RESERVED_MS = 5_000
MARKER_MS = 60_000
"""The time to live of a marker. A decision whose evaluation took longer is not stored."""
AGE_MARGIN_MS = 5_000
"""The time by which a record must precede a stamp to count as older."""
NEWS = 32
"""The maximum number of records that a look-up returns."""

_POSITION = f"""
local function moment()
  local time = redis.pcall('TIME')
  if time.err then return '0000000000000' end
  return string.format('%s%03d', time[1], math.floor(tonumber(time[2]) / 1000))
end
local function position(log, first)
  local newest = redis.call('LINDEX', log, 0)
  if newest then return string.sub(newest, 1, 24) end
  -- If memory ran out, or this is a replica, there is no position.
  local pushed = redis.pcall('LPUSH', log, first .. ' ' .. moment() .. ' {{"begun":true}}')
  if type(pushed) == 'table' then return false end
  return first
end
-- Returns the records since a position, newest first; false: too many, or it is unknown.
local function news(log, newest, since)
  if not newest then return false end
  if newest == since then return {{}} end
  for at, record in ipairs(redis.call('LRANGE', log, 0, {NEWS})) do
    if string.sub(record, 1, 24) == since then
      return redis.call('LRANGE', log, 0, at - 2)
    end
  end
  return false
end
"""

_INVALIDATED = f"""
local function is_any_of(names, carried)
  for _, name in ipairs(carried) do
    if names[name] then return true end
  end
  return false
end
local function matches(record, decision)
  if record.begun then return false end
  if record.keys then return record.keys[decision.key] ~= nil end
  if record.pattern then return true end
  for _, field in ipairs({{'policy', 'user_id', 'action', 'resource', 'context'}}) do
    if record[field] and record[field] ~= decision[field] then return false end
  end
  return not record.tags or is_any_of(record.tags, decision.tags)
end
local function set_of(names)
  local set = {{}}
  for _, name in ipairs(names) do set[name] = true end
  return set
end
-- Returns the time, in milliseconds, before which records are older than an age; nil: a position.
local function horizon(since)
  local age, taken = string.match(since, '^(%d+):(%d+)$')
  if not age then return nil end
  local time = redis.pcall('TIME')
  if time.err then return 0 end
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  return math.min(now - tonumber(age), tonumber(taken))
end
-- Returns the records since a position or an age; nil: the log does not reach back to it.
local function newer(log, since)
  local records, before = {{}}, horizon(since)
  for at = 0, {MAX_RECORDS} - 1, 16 do
    for _, record in ipairs(redis.call('LRANGE', log, at, at + 15)) do
      if string.sub(record, 1, 24) == since then return records end
      local recorded = tonumber(string.sub(record, 26, 38))
      if before and recorded > 0 and recorded < before then return records end
      local read = cjson.decode(string.sub(record, 40))
      if read.keys then read.keys = set_of(read.keys) end
      if read.tags then read.tags = set_of(read.tags) end
      records[#records + 1] = read
    end
  end
  return nil
end
local function invalidated(records, decision)
  if not records then return true end
  for _, record in ipairs(records) do
    if matches(record, decision) then return true end
  end
  return false
end
"""

_MAY_REPLACE = f"""
-- Modes: 'always'; 'absent': nothing was stored since the look-up; 'replace': only the seen value.
local function may_replace(key, marker, mode, seen, seen_marker)
  if mode == 'always' then return true end
  local held = redis.pcall('GET', key)
  if type(held) == 'table' then held = '' end
  if mode == 'replace' then return held == seen end
  if held and string.sub(held, 1, {len(RESERVATION)}) ~= '{RESERVATION}' then return false end
  local marked = redis.call('GET', marker)
  return not marked or marked == seen_marker
end
-- Sets a marker if the decision may expire before an older evaluation ends.
local function mark_brief(marker, mode, ttl, id)
  if mode == 'always' and tonumber(ttl) < {MARKER_MS} then
    redis.call('SET', marker, id, 'PX', {MARKER_MS})
  end
end
"""


def _minified(script: str) -> str:
    """Returns a script without comments and indentation."""
    lines = (line.strip() for line in script.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("--"))


GET = _minified(
    _POSITION
    + """
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'table' then value = '' end
local left = value and redis.call('PTTL', KEYS[1]) or 0
local marked = not value and redis.call('GET', KEYS[2])
if not KEYS[3] then return {value, left, marked} end
local at = position(KEYS[3], ARGV[1])
if value and at == ARGV[2] then return {value, left} end
return {value, left, marked, at, news(KEYS[3], at, ARGV[2])}
"""
)
"""key, marker [log], first id, position -> value | nil, milliseconds left, marker | nil
[position | nil, records | nil]

A value that is not a string is ''. A hit at the given position returns only the value and the
milliseconds.
"""

GET_MANY = _minified(
    _POSITION
    + """
local count = tonumber(ARGV[1])
local values = {}
for i = 1, count do
  local value = redis.pcall('GET', KEYS[i])
  if type(value) == 'table' then value = '' end
  values[2 * i - 1] = value
  values[2 * i] = value and redis.call('PTTL', KEYS[i]) or 0
end
local log = KEYS[count + 1]
if log then
  local at = position(log, ARGV[2])
  values[2 * count + 1] = at
  values[2 * count + 2] = news(log, at, ARGV[3])
end
return values
"""
)
"""keys [log], number of keys, first id, position -> (value | nil, milliseconds left)...
[position | nil, records | nil]

A value that is not a string is ''.
"""

POSITION = _minified(
    _POSITION
    + """
local at = position(KEYS[1], ARGV[1])
return {at, news(KEYS[1], at, ARGV[2])}
"""
)
"""log, first id, position -> position | nil, records | nil"""

APPEND = _minified(
    _POSITION
    + f"""
redis.call('LPUSH', KEYS[1], ARGV[1] .. ' ' .. moment() .. ' ' .. ARGV[2])
redis.call('LTRIM', KEYS[1], 0, {MAX_RECORDS} - 1)
return 1
"""
)
"""log, id, record -> 1"""

STORED, INVALIDATED, SUPERSEDED = 1, 0, -1

STORE = _minified(
    _INVALIDATED
    + _MAY_REPLACE
    + f"""
local log = KEYS[#KEYS]
local mode, id = ARGV[2], ARGV[5]
local records = newer(log, ARGV[1])
local outcomes = {{}}
for i = 1, (#KEYS - 1) / 2 do
  local key, marker = KEYS[2 * i - 1], KEYS[2 * i]
  local value, ttl, decision = ARGV[3 * i + 3], ARGV[3 * i + 4], ARGV[3 * i + 5]
  local free = may_replace(key, marker, mode, ARGV[3], ARGV[4])
  if invalidated(records, cjson.decode(decision)) then
    -- The record may match only the tags of this decision, which is newer than the stored one and
    -- than the evaluations that are running.
    if free then
      redis.call('UNLINK', key)
      redis.call('SET', marker, id, 'PX', {MARKER_MS})
    end
    outcomes[i] = {INVALIDATED}
  elseif not free then outcomes[i] = {SUPERSEDED}
  else
    redis.call('SET', key, value, 'PX', ttl)
    mark_brief(marker, mode, ttl, id)
    outcomes[i] = {STORED}
  end
end
return outcomes
"""
)
"""(key, marker)... log, position, mode, seen, seen marker, id,
(value, milliseconds, decision)... -> outcomes"""

# On a cluster, a key and the log may be on different servers. A write reserves its key, reads the
# log, then replaces the reservation by the decision. An invalidation appends its record, then scans
# the keys. So either the write reads the record, or the scan finds the reservation.

RESERVE = _minified(
    _MAY_REPLACE
    + f"""
if not may_replace(KEYS[1], KEYS[2], ARGV[2], ARGV[3], ARGV[4]) then return {SUPERSEDED} end
redis.call('SET', KEYS[1], '{RESERVATION}' .. ARGV[1], 'PX', {RESERVED_MS})
mark_brief(KEYS[2], ARGV[2], ARGV[5], ARGV[1])
return {STORED}
"""
)
"""key, marker, id, mode, seen, seen marker, milliseconds -> STORED | SUPERSEDED"""

VERIFY = _minified(
    _INVALIDATED
    + f"""
local records = newer(KEYS[1], ARGV[1])
local outcomes = {{}}
for i = 2, #ARGV do
  outcomes[i - 1] = invalidated(records, cjson.decode(ARGV[i])) and {INVALIDATED} or {STORED}
end
return outcomes
"""
)
"""log, position, decisions... -> outcomes"""

COMMIT = _minified(f"""
if redis.call('GET', KEYS[1]) ~= '{RESERVATION}' .. ARGV[1] then return {INVALIDATED} end
if ARGV[2] == '' then
  redis.call('UNLINK', KEYS[1])
  redis.call('SET', KEYS[2], ARGV[1], 'PX', {MARKER_MS})
  return {INVALIDATED}
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return {STORED}
""")
"""key, marker, id, value or '', milliseconds -> STORED | INVALIDATED

Without a value, it sets the marker: evaluations that are running are older than the decision.
"""

REMOVE = _minified(f"""
local value = redis.pcall('GET', KEYS[1])
redis.call('UNLINK', KEYS[1])
if type(value) ~= 'string' or string.sub(value, 1, {len(RESERVATION)}) == '{RESERVATION}' then
  return 0
end
return 1
""")
"""key -> number of decisions removed"""

REMOVE_TAGGED = _minified(f"""
local named = {{}}
for _, tag in ipairs(ARGV) do named[tag] = true end
local removed = 0
for _, key in ipairs(KEYS) do
  local value = redis.pcall('GET', key)
  local reserved = type(value) == 'string'
    and string.sub(value, 1, {len(RESERVATION)}) == '{RESERVATION}'
  local matches = reserved
  if type(value) == 'string' and not reserved then
    local read, entry = pcall(cjson.decode, value)
    -- A value that cannot be read is not a decision, so nothing is lost.
    matches = not read or type(entry) ~= 'table' or type(entry.tags) ~= 'table'
    if not matches then
      for _, carried in ipairs(entry.tags) do matches = matches or named[carried] end
    end
  end
  if matches then
    local unlinked = redis.call('UNLINK', key)
    if not reserved then removed = removed + unlinked end
  end
end
return removed
""")
"""keys, tags -> number of decisions removed"""
