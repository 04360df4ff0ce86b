-- States of items. ARGV: run, indexes... Returns for each 'succeeded' (or skipped), 'failed', 'cancelled' or
-- '' while it has not ended; a run that is being cancelled does not know which items failed before.
local run = ARGV[3]
local state = redis.call('HGET', key(run), 'state')
local answers = {}
for n = 4, #ARGV do
  if redis.call('HEXISTS', key(run, 'items'), ARGV[n]) == 0 then answers[n - 3] = 'succeeded'
  elseif not has_ended(run, ARGV[n]) then answers[n - 3] = ''
  elseif state == 'cancelling' or state == 'cancelled' then answers[n - 3] = 'cancelled'
  else answers[n - 3] = 'failed' end
end
return answers
