"""The scripts that run on the server.

The server runs each script as one step. The format of the invalidation log, of its head and of the
positions in it is in `sark_cache.backends.redis.log`. A decision is stored if no record after the
position of its evaluation matches it. If the position is not in the log, or more than `MAX_NEWER`
records are newer, nothing is stored.

The head holds the position of the last record. Reading it takes the server 1 µs, and reading the
end of the stream takes 5 to 10 µs. So a script reads the stream only if the head's position is not
the known one.

The head also says whether decisions may be stored, so that a revocation need not scan the keys of a
server that has none:

| | |
|---|---|
| `?` | decisions may be stored |
| a position | none was stored since the record at this position. There may be older ones |
| `0` | none is stored: a scan after that record found none, and none was stored until it ended |

A script that stores a decision sets `?` in the same step. So does the first record after the head
was lost or had another history. It is always `?` on a cluster, where a decision and the head may be
on different servers, and where the server does not report its history. A client may send the same
record twice. Then the two have different positions, so a scan after one is no proof for the other.

A server that was restarted may have an older state: decisions that were revoked, and a log without
the revocation. Then its replication id is another one, and after a promotion, too. This id, or its
first 16 digits, is the *history*. The head holds the history of its record. Each stored value holds
the history of the server that stored it. If the head has another history, the next script appends a
record that revokes everything. A value of another history counts as absent. A server that does not
report the id has an empty one, and such a restart is not noticed.

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

MAX_NEWER = 1024
"""The maximum number of records with which a decision is compared before it is stored."""

RESERVATION = "reservation:"
"""The prefix of the value that reserves a key on a cluster. The id of the write follows it."""
RESERVED_MS = 5_000
MARKER_MS = 60_000
"""The time to live of a marker. A decision whose evaluation took longer is not stored."""
AGE_MARGIN_MS = 5_000
"""The time by which a record must precede a stamp to count as older."""
NEWS = 32
"""The maximum number of records that a look-up returns."""

MAYBE, NONE = "?", "0"
"""The notes of the head: decisions may be stored; none is stored."""

MAX_RECORDS = 16_384
"""The number of records that the log keeps, and at most a node of the stream more."""

_HISTORY = """
local replication = redis.pcall('INFO', 'replication')
if type(replication) ~= 'string' then replication = '' end
local history = string.sub(string.match(replication, 'master_replid:(%x+)') or '', 1, 16)
if not string.find(history, '[^0]') then history = '' end
"""

_TEXT = f"""
-- Returns the history of a value and its text; nil if it has another form.
local function parts(value) return string.match(value, '^(%x*) (.*)$') end
local function is_reserved(text)
  return text and string.sub(text, 1, {len(RESERVATION)}) == '{RESERVATION}'
end
"""

_HELD = (
    _HISTORY
    + _TEXT
    + """
-- Returns the text that a key holds; false: none of this history; '': it cannot be read.
local function held(key)
  local value = redis.pcall('GET', key)
  if not value then return false end
  if type(value) == 'table' then return '' end
  local of, text = parts(value)
  if not of then return '' end
  return of == history and text
end
local function hold(key, text, milliseconds)
  redis.call('SET', key, history .. ' ' .. text, 'PX', milliseconds)
end
"""
)

_NAME = """
local function name(item) return item[1] .. '.' .. (item[2][2] or '') end
"""

_APPEND = f"""
-- Returns the position of the last record, the history, and the note about stored decisions.
local function read_head(head)
  return string.match(redis.call('GET', head) or '', '^(%S+) (%x*) (%S+)$')
end
local function set_head(head, at, stored)
  redis.call('SET', head, at .. ' ' .. history .. ' ' .. stored)
end
-- Appends a record and returns its position, or the error for which the server refuses it.
-- The head then says `stored`; '': the position of this record; nil: {MAYBE}
local function append(log, head, nonce, record, stored)
  local before, of = read_head(head)
  local previous = of == history and before or ''
  local id = redis.pcall('XADD', log, 'MAXLEN', '~', {MAX_RECORDS}, '*',
    'n', nonce, 'r', record, 'p', previous)
  if type(id) == 'table' then return id end
  local at = id .. '.' .. nonce
  set_head(head, at, stored == '' and at or stored or '{MAYBE}')
  return at
end
-- Returns the position of the last record, and whether decisions may be stored; nil: there is no
-- log. If the log is of another history, revokes everything with a record that has this nonce, or
-- returns the error.
local function last(log, head, nonce)
  local at, of, stored = read_head(head)
  if at and of == history then return at, stored end
  if at or redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1] then
    return append(log, head, nonce, '{{"history":"' .. history .. '"}}'), '{MAYBE}'
  end
end
"""

_POSITION = (
    _NAME
    + _APPEND
    + f"""
local function position(log, head, nonce)
  local at = last(log, head, nonce) or append(log, head, nonce, '{{"begun":true}}')
  -- If memory ran out, or this is a replica, there is no position.
  return type(at) == 'string' and at
end
-- Returns the records since a position, newest first; false: too many, or it is unknown.
local function news(log, newest, since)
  if not newest then return false end
  if newest == since then return {{}} end
  local id = string.match(since, '^(%d+%-%d+)%.')
  if not id then return false end
  local items = redis.call('XRANGE', log, id, '+', 'COUNT', {NEWS} + 2)
  if #items > {NEWS} + 1 or not items[1] or name(items[1]) ~= since then return false end
  local records = {{}}
  for at = #items, 2, -1 do
    records[#records + 1] = name(items[at]) .. ' ' .. (items[at][2][4] or '')
  end
  return records
end
"""
)

_INVALIDATED = (
    _NAME
    + _APPEND
    + f"""
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
-- Returns the time, in milliseconds, before which records are older than an age.
local function horizon(since)
  local age, taken = string.match(since, '^(%d+):(%d+)$')
  local time = redis.pcall('TIME')
  if not age or time.err then return 0 end
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  return math.min(now - tonumber(age), tonumber(taken))
end
-- Returns the items since a position, at most MAX_NEWER; nil: too many, or it is unknown.
local function items_after(log, since, id)
  local items = redis.call('XRANGE', log, id, '+', 'COUNT', {MAX_NEWER} + 2)
  if not items[1] or name(items[1]) ~= since then return nil end
  table.remove(items, 1)
  return items
end
-- Returns the items since an age; nil: too many, or the log has no older one.
local function items_within(log, since)
  local before = horizon(since)
  if before < 1 then return nil end
  local older = redis.call('XREVRANGE', log, string.format('%.0f', before - 1), '-', 'COUNT', 1)
  if not older[1] then return nil end
  return redis.call('XRANGE', log, string.format('%.0f', before), '+', 'COUNT', {MAX_NEWER} + 1)
end
-- Returns the records since a position or an age; nil: too many, or it is unknown. The head then
-- says that decisions may be stored.
local function newer(log, head, nonce, since)
  local at, stored = last(log, head, nonce)
  if type(at) ~= 'string' then return nil end
  if stored ~= '{MAYBE}' then set_head(head, at, '{MAYBE}') end
  if since == at then return {{}} end
  local id = string.match(since, '^(%d+%-%d+)%.')
  local items = id and items_after(log, since, id) or not id and items_within(log, since)
  if not items or #items > {MAX_NEWER} then return nil end
  local records = {{}}
  for at, item in ipairs(items) do
    local is_read, record = pcall(cjson.decode, item[2][4] or '')
    -- A record that cannot be read revokes everything.
    if not is_read or type(record) ~= 'table' then record = {{}} end
    if record.keys then record.keys = set_of(record.keys) end
    if record.tags then record.tags = set_of(record.tags) end
    records[at] = record
  end
  return records
end
local function invalidated(records, decision)
  if not records then return true end
  for _, record in ipairs(records) do
    if matches(record, decision) then return true end
  end
  return false
end
"""
)

_MAY_REPLACE = (
    _HELD
    + f"""
-- Modes: 'always'; 'absent': nothing was stored since the look-up; 'replace': only the seen value.
local function may_replace(key, marker, mode, seen, seen_marker)
  if mode == 'always' then return true end
  local text = held(key)
  if mode == 'replace' then return text == seen end
  if text and not is_reserved(text) then return false end
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
)


def _minified(script: str) -> str:
    """Returns a script without comments and indentation."""
    lines = (line.strip() for line in script.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("--"))


GET = _minified(
    _HELD
    + _POSITION
    + """
local value = held(KEYS[1])
local left = value and redis.call('PTTL', KEYS[1]) or 0
local marked = not value and redis.call('GET', KEYS[2])
if not KEYS[3] then return {value, left, marked} end
local at = position(KEYS[3], KEYS[4], ARGV[1])
if value and at == ARGV[2] then return {value, left} end
return {value, left, marked, at, news(KEYS[3], at, ARGV[2])}
"""
)
"""key, marker [log, head], nonce, position -> value | nil, milliseconds left, marker | nil
[position | nil, records | nil]

A value that cannot be read is ''. A hit at the given position returns only the value and the
milliseconds.
"""

GET_MANY = _minified(
    _HELD
    + _POSITION
    + """
local count = tonumber(ARGV[1])
local values = {}
for i = 1, count do
  local value = held(KEYS[i])
  values[2 * i - 1] = value
  values[2 * i] = value and redis.call('PTTL', KEYS[i]) or 0
end
local log = KEYS[count + 1]
if log then
  local at = position(log, KEYS[count + 2], ARGV[2])
  values[2 * count + 1] = at
  values[2 * count + 2] = news(log, at, ARGV[3])
end
return values
"""
)
"""keys [log, head], number of keys, nonce, position -> (value | nil, milliseconds left)...
[position | nil, records | nil]

A value that cannot be read is ''.
"""

POSITION = _minified(
    _HISTORY
    + _POSITION
    + """
local at = position(KEYS[1], KEYS[2], ARGV[1])
return {at, news(KEYS[1], at, ARGV[2])}
"""
)
"""log, head, nonce, position -> position | nil, records | nil"""

REMOVED = "removed"
"""The reply to a record for which there is no memory: the log was removed."""

APPEND = _minified(
    _HISTORY
    + _APPEND
    + f"""
local _, stored = last(KEYS[1], KEYS[2], string.reverse(ARGV[1]))
if history == '' or ARGV[3] ~= '1' then stored = '{MAYBE}'
elseif not stored or stored == '{MAYBE}' then stored = '' end
local at = append(KEYS[1], KEYS[2], ARGV[1], ARGV[2], stored)
if type(at) == 'string' then return {{at, stored == '' and at or stored}} end
if not string.find(at.err, 'OOM', 1, true) then return at end
-- Without a log, no decision being evaluated is stored. That has the same effect.
redis.call('UNLINK', KEYS[1], KEYS[2])
return {{'{REMOVED}', '{MAYBE}'}}
"""
)
"""log, head, nonce, record, 1 if decisions are on the server of the log -> position | REMOVED,
MAYBE | position | NONE"""

NOTE_NONE = _minified(
    _HISTORY
    + _APPEND
    + f"""
local at, of, stored = read_head(KEYS[1])
if not at or of ~= history or stored ~= ARGV[1] then return 0 end
local server = redis.pcall('INFO', 'server')
if type(server) ~= 'string' or string.match(server, 'run_id:(%x+)') ~= ARGV[2] then return 0 end
set_head(KEYS[1], at, '{NONE}')
return 1
"""
)
"""head, position, id of the run of the server that was scanned -> 1 | 0

Notes that no decision is stored, if none was stored since the record at this position.
"""

STORED, INVALIDATED, SUPERSEDED = 1, 0, -1

STORE = _minified(
    _MAY_REPLACE
    + _INVALIDATED
    + f"""
local mode, id = ARGV[2], ARGV[5]
local records = newer(KEYS[#KEYS - 1], KEYS[#KEYS], string.sub(id, 1, 16), ARGV[1])
local outcomes = {{}}
for i = 1, #KEYS / 2 - 1 do
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
    hold(key, value, ttl)
    mark_brief(marker, mode, ttl, id)
    outcomes[i] = {STORED}
  end
end
return outcomes
"""
)
"""(key, marker)... log, head, position, mode, seen, seen marker, id,
(value, milliseconds, decision)... -> outcomes"""

# On a cluster, a key and the log may be on different servers. A write reserves its key, reads the
# log, then replaces the reservation by the decision. An invalidation appends its record, then scans
# the keys. So either the write reads the record, or the scan finds the reservation.

RESERVE = _minified(
    _MAY_REPLACE
    + f"""
if not may_replace(KEYS[1], KEYS[2], ARGV[2], ARGV[3], ARGV[4]) then return {SUPERSEDED} end
hold(KEYS[1], '{RESERVATION}' .. ARGV[1], {RESERVED_MS})
mark_brief(KEYS[2], ARGV[2], ARGV[5], ARGV[1])
return {STORED}
"""
)
"""key, marker, id, mode, seen, seen marker, milliseconds -> STORED | SUPERSEDED"""

VERIFY = _minified(
    _HISTORY
    + _INVALIDATED
    + f"""
local records = newer(KEYS[1], KEYS[2], ARGV[2], ARGV[1])
local outcomes = {{}}
for i = 3, #ARGV do
  outcomes[i - 2] = invalidated(records, cjson.decode(ARGV[i])) and {INVALIDATED} or {STORED}
end
return outcomes
"""
)
"""log, head, position, nonce, decisions... -> outcomes"""

COMMIT = _minified(
    _HELD
    + f"""
if held(KEYS[1]) ~= '{RESERVATION}' .. ARGV[1] then return {INVALIDATED} end
if ARGV[2] == '' then
  redis.call('UNLINK', KEYS[1])
  redis.call('SET', KEYS[2], ARGV[1], 'PX', {MARKER_MS})
  return {INVALIDATED}
end
hold(KEYS[1], ARGV[2], ARGV[3])
return {STORED}
"""
)
"""key, marker, id, value or '', milliseconds -> STORED | INVALIDATED

Without a value, it sets the marker: evaluations that are running are older than the decision.
"""

REMOVE = _minified(
    _TEXT
    + """
local value = redis.pcall('GET', KEYS[1])
redis.call('UNLINK', KEYS[1])
if type(value) ~= 'string' then return 0 end
local _, text = parts(value)
return is_reserved(text) and 0 or 1
"""
)
"""key -> number of decisions removed"""

REMOVE_TAGGED = _minified(
    _TEXT
    + """
local named = {}
for _, tag in ipairs(ARGV) do named[tag] = true end
local removed = 0
for _, key in ipairs(KEYS) do
  local value = redis.pcall('GET', key)
  local _, text = parts(type(value) == 'string' and value or '')
  local reserved = is_reserved(text)
  local matches = reserved
  if type(value) == 'string' and not reserved then
    local read, entry = pcall(cjson.decode, text or '')
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
"""
)
"""keys, tags -> number of decisions removed"""

SETTLE = _minified(
    _HISTORY
    + _POSITION
    + """
local log, readers, suspects = KEYS[1], KEYS[3], KEYS[4]
local record = ARGV[1] == '' and position(log, KEYS[2], ARGV[5]) or ARGV[1]
local ms, seq = string.match(record, '^(%d+)%-(%d+)%.')
-- Compares digits, because a Lua number does not hold every 64-bit integer.
local function less(one, other) return #one < #other or (#one == #other and one < other) end
local function is_behind(at)
  local its_ms, its_seq = string.match(at, '^(%d+)%-(%d+)$')
  if not its_ms then return true end
  return less(its_ms, ms) or (its_ms == ms and less(its_seq, seq))
end
local function is_there(position)
  local id = string.match(position, '^(%d+%-%d+)%.')
  local item = id and redis.call('XRANGE', log, id, id)[1]
  return item and name(item) == position and 1 or 0
end
local function pairs_of(key)
  local found, items = {}, redis.call('HGETALL', key)
  for i = 1, #items, 2 do found[items[i]] = items[i + 1] end
  return found
end
local applied = pairs_of(readers)
local generation = applied['generation']
-- If memory ran out, there is none, and nobody believes acknowledgements.
if not generation and redis.pcall('HSETNX', readers, 'generation', ARGV[6]) == 1 then
  generation = ARGV[6]
end
applied['generation'] = nil
local count, behind, marks, seen, marked = 0, 0, {}, {}, pairs_of(suspects)
for id, at in pairs(applied) do
  count = count + 1
  if is_behind(at) then
    behind = behind + 1
    local mark = marked[id]
    -- If memory ran out, there is no mark.
    if not mark and ARGV[3] ~= '' and redis.pcall('HSETNX', suspects, id, ARGV[3]) == 1 then
      mark = ARGV[3]
    end
    if mark and not seen[mark] and #marks < tonumber(ARGV[4]) then
      seen[mark] = true
      marks[#marks + 1] = mark
    end
  end
end
local is_primary = string.match(replication, 'role:(%a+)') == 'master'
return {
  is_primary and string.match(replication, 'master_replid:(%x+)') or '',
  generation or '', redis.call('GET', KEYS[5]) or '', count, behind,
  is_there(record) == 1 and record or '', is_there(ARGV[2]), marks
}
"""
)
"""log, head, readers, suspects, span, position of the record or '', known position or '', mark or
'', maximum number of marks, nonce, new generation -> id of the replication or '', generation or '',
milliseconds or '', number of readers, number of readers behind the record, position of the record
or '' if it is not in the log, is the known position there, marks of readers behind the record

Without a record, the answer is about the newest one, and an empty log is begun. With a mark, each
reader behind the record that has no mark gets it.
"""

FORGET = _minified("""
local removed, marks = 0, redis.call('HGETALL', KEYS[2])
for i = 1, #marks, 2 do
  if marks[i + 1] == ARGV[1] then
    removed = removed + redis.call('HDEL', KEYS[1], marks[i])
    redis.call('HDEL', KEYS[2], marks[i])
  end
end
return removed
""")
"""readers, suspects, mark -> number of readers with this mark that were removed"""
