-- Every function that another module can reach says what it does.
local function files_of(folder)
  local pipe = io.popen(("find %s -name '*.lua' | sort"):format(folder))
  local paths = {}
  for path in pipe:lines() do
    paths[#paths + 1] = path
  end
  pipe:close()
  return paths
end

local function undocumented(path)
  local missing, before = {}, ""
  for line in io.lines(path) do
    local name = line:match "^function ([%a_][%w_]*[.:][%a_][%w_]*)%("
    if name and not name:find "[.:]__" and not before:find "^%s*%-%-%-" then
      missing[#missing + 1] = path .. ": " .. name
    end
    before = line
  end
  return missing
end

describe("the documentation", function()
  local paths = files_of "lua"

  it("finds the modules", function()
    assert.is_true(#paths > 10)
  end)

  for _, path in ipairs(paths) do
    it("of " .. path .. " leaves out no function", function()
      assert.same({}, undocumented(path))
    end)

    it("of " .. path .. " says what the module is", function()
      local file = assert(io.open(path))
      local first = file:read "*l"
      if first:find "^#!" then
        first = file:read "*l"
      end
      file:close()
      assert.truthy(first:find "^%-%-%- ", first)
    end)
  end
end)
