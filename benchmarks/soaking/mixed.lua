-- The requests that wrk sends, and the counts of the responses. mixed.py writes `kinds` and `limit` above this text.
-- The kinds are in mixed order. wrk calls `delay` before each request; a long delay prevents requests above the limit.
local order = {}
local begun, sent, answered, without_id, statuses, verified = 0, {}, 0, 0, {}, false
math.randomseed(8)
for index, kind in ipairs(kinds) do
  sent[index] = 0
  for _ = 1, kind.share do table.insert(order, math.random(#order + 1), index) end
end

function delay()
  if begun >= limit then return 3600000 end
  begun = begun + 1
  return 0
end

function request()
  if not verified then verified = true; return kinds[1].text end -- wrk calls this once at the start without sending
  local index = order[begun % #order + 1]
  sent[index] = sent[index] + 1
  return (kinds[index].text:gsub("{id}", "soak-" .. begun .. "-" .. sent[index]))
end

function response(status, headers)
  answered = answered + 1
  statuses[status] = (statuses[status] or 0) + 1
  if not (headers["x-request-id"] or headers["X-Request-ID"]) then without_id = without_id + 1 end
  if answered < limit then return end
  for index, kind in ipairs(kinds) do print("sent", sent[index], kind.name) end
  for code, count in pairs(statuses) do print("status", count, code) end
  print("without_id", without_id, "-")
  io.stdout:flush()
  os.exit(0) -- otherwise wrk would run until its duration is over
end
