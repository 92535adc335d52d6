-- What wrk asks for, and what it counts; `kinds` and `limit` are written in front of this by mixed.py.
-- The kinds come in a mixed order. `delay` is asked before each request, and so nobody begins one too many.
local order = {}
local begun, sent, answered, nameless, statuses, verified = 0, {}, 0, 0, {}, false
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
  if not verified then verified = true; return kinds[1].text end -- wrk asks once at the start, and sends nothing
  local index = order[begun % #order + 1]
  sent[index] = sent[index] + 1
  return (kinds[index].text:gsub("{id}", "soak-" .. begun .. "-" .. sent[index]))
end

function response(status, headers)
  answered = answered + 1
  statuses[status] = (statuses[status] or 0) + 1
  if not (headers["x-request-id"] or headers["X-Request-ID"]) then nameless = nameless + 1 end
  if answered < limit then return end
  for index, kind in ipairs(kinds) do print("sent", sent[index], kind.name) end
  for code, count in pairs(statuses) do print("status", count, code) end
  print("nameless", nameless, "-")
  io.stdout:flush()
  os.exit(0) -- as wrk itself would wait until its time is over
end
