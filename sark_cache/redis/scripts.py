"""What runs on the server, in one step each: scripts, and the form of the invalidation log.

The log is a list, newest record first: `{id} {record}`, the id 24 random hexadecimal digits, the
record a JSON object with what was named: fields, tags, `keys` or a `pattern`. A
*position* is the id of the record that was newest when an evaluation began. Whatever stands above
it is newer, so a decision may be stored if none of that matches it. A position that is not in the
log is unknown: the log was cut (at `MAX_RECORDS`), flushed, evicted, or lost by a failover. Nothing
is stored then. Ids, not numbers or times: a server that lost records cannot give one out twice.

Scripts are sent whole, with EVAL: the server knows them by their hash anyway, and one that was
restarted or failed over has nothing to be told.
"""

MAX_RECORDS = 1024

RESERVATION = "reservation:"
"""What a key holds while a decision is on its way to it (on a cluster), followed by whose it is."""
RESERVED_MS = 5_000

_POSITION = """
local function position(log, first)
  local newest = redis.call('LINDEX', log, 0)
  if newest then return string.sub(newest, 1, 24) end
  -- Memory may have run out, or this may be a replica: then there is no position.
  local pushed = redis.pcall('LPUSH', log, first .. ' {"begun":true}')
  if type(pushed) == 'table' then return false end
  return first
end
"""

_OVERTAKEN = f"""
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
-- What was recorded since a position; nil: the position is not in the log.
local function newer(log, since)
  local records = {{}}
  for at = 0, {MAX_RECORDS} - 1, 16 do
    for _, record in ipairs(redis.call('LRANGE', log, at, at + 15)) do
      if string.sub(record, 1, 24) == since then return records end
      local read = cjson.decode(string.sub(record, 26))
      if read.keys then read.keys = set_of(read.keys) end
      if read.tags then read.tags = set_of(read.tags) end
      records[#records + 1] = read
    end
  end
  return nil
end
local function overtaken(records, decision)
  if not records then return true end
  for _, record in ipairs(records) do
    if matches(record, decision) then return true end
  end
  return false
end
"""

_GIVES_WAY = f"""
-- 'always'; 'absent': whoever stored meanwhile knew more; 'replace': unless it is what was seen.
local function gives_way(key, mode, seen)
  if mode == 'always' then return true end
  local held = redis.pcall('GET', key)
  if type(held) ~= 'string' then return true end
  if string.sub(held, 1, {len(RESERVATION)}) == '{RESERVATION}' then return true end
  return mode == 'replace' and held == seen
end
"""

GET = (
    _POSITION
    + """
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'table' then value = '' end
local left = value and redis.call('PTTL', KEYS[1]) or 0
return {value, left, KEYS[2] and position(KEYS[2], ARGV[1])}
"""
)
"""key [log], first id -> value | nil, milliseconds left, position | nil; '' for no string"""

GET_MANY = """
local values = {}
for i, key in ipairs(KEYS) do
  local value = redis.pcall('GET', key)
  -- What is no text, or never expires, is no entry.
  if type(value) == 'table' or (value and redis.call('PTTL', key) < 0) then value = '' end
  values[i] = value
end
return values
"""
"""keys -> values | nil; '' for what is no entry"""

POSITION = _POSITION + "return position(KEYS[1], ARGV[1])"
"""log, first id -> position | nil"""

APPEND = f"""
redis.call('LPUSH', KEYS[1], ARGV[1] .. ' ' .. ARGV[2])
redis.call('LTRIM', KEYS[1], 0, {MAX_RECORDS} - 1)
return 1
"""
"""log, id, record -> 1"""

STORED, OVERTAKEN, SUPERSEDED = 1, 0, -1

STORE = (
    _OVERTAKEN
    + _GIVES_WAY
    + f"""
local log = KEYS[#KEYS]
local records = newer(log, ARGV[1])
local outcomes = {{}}
for i = 1, #KEYS - 1 do
  local value, ttl, decision = ARGV[3 * i + 1], ARGV[3 * i + 2], ARGV[3 * i + 3]
  if overtaken(records, cjson.decode(decision)) then outcomes[i] = {OVERTAKEN}
  elseif not gives_way(KEYS[i], ARGV[2], ARGV[3]) then outcomes[i] = {SUPERSEDED}
  else
    redis.call('SET', KEYS[i], value, 'PX', ttl)
    outcomes[i] = {STORED}
  end
end
return outcomes
"""
)
"""keys log, position, mode, seen, (value, milliseconds, decision)... -> outcomes"""

# On a cluster key and log are in different places. The key is reserved, then the log is read, then
# the reservation becomes the decision. An invalidation appends its record and walks the keys
# afterwards: either its record is read, or its walk finds what was reserved before that.

RESERVE = (
    _GIVES_WAY
    + f"""
if not gives_way(KEYS[1], ARGV[2], ARGV[3]) then return {SUPERSEDED} end
redis.call('SET', KEYS[1], '{RESERVATION}' .. ARGV[1], 'PX', {RESERVED_MS})
return {STORED}
"""
)
"""key, id, mode, seen -> STORED | SUPERSEDED"""

VERIFY = (
    _OVERTAKEN
    + f"""
local records = newer(KEYS[1], ARGV[1])
local outcomes = {{}}
for i = 2, #ARGV do
  outcomes[i - 1] = overtaken(records, cjson.decode(ARGV[i])) and {OVERTAKEN} or {STORED}
end
return outcomes
"""
)
"""log, position, decisions... -> outcomes"""

COMMIT = f"""
if redis.call('GET', KEYS[1]) ~= '{RESERVATION}' .. ARGV[1] then return {OVERTAKEN} end
if ARGV[2] == '' then redis.call('UNLINK', KEYS[1]) return {OVERTAKEN} end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return {STORED}
"""
"""key, id, value or nothing, milliseconds -> STORED | OVERTAKEN"""

REMOVE = f"""
local value = redis.pcall('GET', KEYS[1])
redis.call('UNLINK', KEYS[1])
if type(value) ~= 'string' or string.sub(value, 1, {len(RESERVATION)}) == '{RESERVATION}' then
  return 0
end
return 1
"""
"""key -> how many decisions it held"""

REMOVE_TAGGED = f"""
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
    -- What cannot be read is no decision that anybody could miss.
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
"""
"""keys, tags -> how many decisions were removed"""
