"""What runs on the server, in one step each: scripts, and the form of the invalidation log.

The log is a list, newest record first: `{id} {record}`, the id 24 random hexadecimal digits, the
record a JSON object with the fields and tags that were named, or a `key`, or a `pattern`. A
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
local function names(record, decision)
  if record.begun then return false end
  if record.key then return record.key == decision.key end
  if record.pattern then return true end
  for _, field in ipairs({{'user_id', 'action', 'resource'}}) do
    if record[field] and record[field] ~= decision[field] then return false end
  end
  if not record.tags then return true end
  for _, tag in ipairs(record.tags) do
    for _, carried in ipairs(decision.tags) do
      if tag == carried then return true end
    end
  end
  return false
end
local function overtaken(log, since, decision)
  for at = 0, {MAX_RECORDS} - 1, 16 do
    for _, record in ipairs(redis.call('LRANGE', log, at, at + 15)) do
      if string.sub(record, 1, 24) == since then return false end
      if names(cjson.decode(string.sub(record, 26)), decision) then return true end
    end
  end
  return true
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
  values[i] = type(value) == 'table' and '' or value
end
return values
"""
"""keys -> values | nil; '' for no string"""

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
if overtaken(KEYS[2], ARGV[3], cjson.decode(ARGV[4])) then return {OVERTAKEN} end
if not gives_way(KEYS[1], ARGV[5], ARGV[6]) then return {SUPERSEDED} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {STORED}
"""
)
"""key log, value, milliseconds, position, decision, mode, seen -> STORED, OVERTAKEN, SUPERSEDED"""

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
if overtaken(KEYS[1], ARGV[1], cjson.decode(ARGV[2])) then return {OVERTAKEN} end
return {STORED}
"""
)
"""log, position, decision -> STORED | OVERTAKEN"""

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
      for _, tag in ipairs(ARGV) do
        for _, carried in ipairs(entry.tags) do matches = matches or tag == carried end
      end
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
