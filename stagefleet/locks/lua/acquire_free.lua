-- Acquire locks if all are free. ARGV: ticket, label, lease ms, (name, shared: '1' or '')...
-- Returns their fencing tokens, or nothing. May be repeated with the same ticket.
local ticket, label, lease = ARGV[3], ARGV[4], tonumber(ARGV[5])
sweep(lease)

for n = 6, #ARGV, 2 do
  if in_use(ARGV[n]) then
    if prune(ARGV[n]) > 0 then wake_next(ARGV[n]) end
    if stands_in_the_way(ARGV[n], ticket, ARGV[n + 1] == '1') then return {} end
  end
end

local fences = {}
for n = 6, #ARGV, 2 do
  local name, facts = ARGV[n], ticket_of(ARGV[n], ticket)
  fences[#fences + 1] = grant(name, ticket, ARGV[n + 1] == '1', label, lease, facts and facts.fence or next_number())
end
return fences
