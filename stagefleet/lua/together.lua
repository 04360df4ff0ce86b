-- Call scripts one after another in one step. `scripts`, above this, has them by name: a function each, of its ARGV.
-- ARGV: (name, '1' if what follows needs it or '', number of its arguments, arguments...)...
-- Returns an answer for each script that was called, which may be an error. One that others need stops the step by
-- an error, or by the answer 0. An error of the first is the step's: nothing has happened.
local answers, position = {}, 1
while position <= #ARGV do
  local name, is_needed, count = ARGV[position], ARGV[position + 1] == '1', tonumber(ARGV[position + 2])
  local arguments = {}
  for n = 1, count do arguments[n] = ARGV[position + 2 + n] end
  position = position + 3 + count
  local succeeded, reply = true, nil
  if #answers == 0 then
    reply = scripts[name](arguments)
  else
    succeeded, reply = pcall(scripts[name], arguments)
    if not succeeded then reply = { err = type(reply) == 'table' and reply.err or tostring(reply) } end
  end
  answers[#answers + 1] = reply or false
  if is_needed and (not succeeded or reply == 0) then break end
end
return answers
