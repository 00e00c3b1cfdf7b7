-- What a user installs: one version, every file, from LuaRocks and from make, for this Lua.
local LUA_VERSION = _VERSION:match("%d%.%d")
local LUA = jit and "luajit" or "lua" .. LUA_VERSION

-- Run without what a surrounding make or shell has set, as a user's shell would.
local CLEAN = "env -u MAKEFLAGS -u MAKELEVEL -u LUA_PATH -u LUA_CPATH "

-- Returns what a shell command printed; raises with its error output when it failed.
local function run(command)
  local log = os.tmpname()
  local pipe = assert(io.popen(("( %s ) 2>%s </dev/null; echo \"status $?\""):format(command, log)))
  local output, status = pipe:read("*a"):match("^(.*)status (%d+)\n$")
  pipe:close()
  local file = assert(io.open(log))
  local errors = file:read("*a")
  file:close()
  os.remove(log)
  assert(status == "0", ("%s\n%s%s"):format(command, output, errors))
  return output
end

local function lines(text)
  local list = {}
  for line in text:gmatch("[^\n]+") do
    list[#list + 1] = line
  end
  return list
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

-- Every file that belongs to the project, also the ones not committed yet; an unpacked archive has no git.
local function project_files()
  return lines(run([[
    { git ls-files --cached --others --exclude-standard || find . -type f -not -path './build/*'; } |
    sed 's|^\./||' | sort -u | while read -r file; do if [ -f "$file" ]; then echo "$file"; fi; done
  ]]))
end

local function files_matching(pattern)
  local list = {}
  for _, file in ipairs(project_files()) do
    if file:find(pattern) then
      list[#list + 1] = file
    end
  end
  return list
end

local function load_rockspec()
  local path = files_matching("^rockspec/.*%.rockspec$")[1]
  local environment = {}
  local chunk = assert(loadfile(path, "t", environment))
  if setfenv then
    setfenv(chunk, environment)
  end
  chunk()
  return environment, path
end

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

-- A folder that is gone after the test, whatever the test did.
local function with_folder(test)
  local folder = run("mktemp -d"):match("[^\n]+")
  local ok, err = pcall(test, folder)
  run("rm -rf " .. quote(folder))
  assert(ok, err)
end

-- Requires the client in a process that finds Lua modules in one place only, and runs somewhere else. The C path
-- keeps the system's folders behind, for lua-cjson, and the one where the specs' own build of it is.
local function require_from(prefix)
  local program = [[
    local sendgrid = require("integrations.sendgrid")
    assert(type(sendgrid.new) == "function")
    print(require("integrations").version)
  ]]
  local share, lib = prefix .. "/share/lua/" .. LUA_VERSION, prefix .. "/lib/lua/" .. LUA_VERSION
  return run(([[
    modules=$PWD/build/modules/%s && cd / &&
    %s LUA_PATH='%s/?.lua;%s/?/init.lua' LUA_CPATH="%s/?.so;$modules/?.so;;" %s -e '%s'
  ]]):format(LUA, CLEAN, share, share, lib, LUA, program))
end

describe("packaging", function()
  it("says one version everywhere", function()
    local version = require("integrations").version
    local rockspec, path = load_rockspec()
    local newest
    for heading in read("CHANGELOG.md"):gmatch("\n## %[(.-)%]") do
      newest = newest or heading:match("^%d.*")
    end
    assert.equal(version, newest)
    assert.equal(version .. "-1", rockspec.version)
    assert.equal("v" .. version, rockspec.source.tag)
    assert.equal(("rockspec/integrations-%s-1.rockspec"):format(version), path)
  end)

  it("is for the same Luas everywhere", function()
    local newest = 1
    for minor in read("Makefile"):match("\nLUAS = ([^\n]+)"):gmatch("lua5%.(%d)") do
      newest = math.max(newest, tonumber(minor))
    end
    assert.equal(("lua >= 5.1, < 5.%d"):format(newest + 1), load_rockspec().dependencies[1])
    assert.truthy(read("README.md"):find("Lua 5.1 to 5." .. newest, 1, true))
    assert.truthy(read("CHANGELOG.md"):find((", 5.%d and LuaJIT"):format(newest), 1, true))
  end)

  it("lists every C source in the rockspec, and no other", function()
    local sources = load_rockspec().build.modules["integrations.core"].sources
    table.sort(sources)
    assert.same(files_matching("^csrc/.*%.c$"), sources)
  end)

  it("lists every Lua module in the rockspec, and no other", function()
    local expected = {}
    for _, file in ipairs(files_matching("^lua/.*%.lua$")) do
      local name = file:gsub("^lua/", ""):gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", ".")
      expected[name] = file
    end
    local listed = load_rockspec().build.modules
    listed["integrations.core"] = nil
    assert.same(expected, listed)
  end)

  it("installs programs that exist", function()
    for _, path in pairs(load_rockspec().build.install.bin) do
      assert.truthy(io.open(path), path)
    end
  end)

  it("prints a shell's paths with make env, and nothing else", function()
    local printed = lines(run(CLEAN .. "make -s env LUA=" .. LUA))
    assert.equal(2, #printed)
    assert.truthy(printed[1]:find("^export LUA_PATH='/.*;;'$"), printed[1])
    assert.truthy(printed[2]:find("^export LUA_CPATH='/.*;;'$"), printed[2])
  end)

  it("works from where make install puts it", function()
    with_folder(function(folder)
      local options = ("LUA=%s PREFIX=/usr DESTDIR=%s"):format(LUA, quote(folder))
      run(CLEAN .. "make install " .. options)
      assert.equal(require("integrations").version .. "\n", require_from(folder .. "/usr"))
      assert.truthy(read(folder .. "/usr/bin/integrations-emulator"):find(LUA, 1, true))
      run(CLEAN .. "make uninstall " .. options)
      assert.equal("", run(("find %s ! -type d"):format(quote(folder))))
    end)
  end)

  -- Lua 5.4 and LuaJIT stand for the others: this compiles everything once more.
  if LUA == "lua5.4" or LUA == "luajit" then
    it("works from where LuaRocks puts it", function()
      local _, rockspec = load_rockspec()
      local headers = run("pkg-config --cflags-only-I " .. LUA):match("%-I(%S+)")
      with_folder(function(folder)
        local source, tree = folder .. "/source", folder .. "/tree"
        local files = table.concat(project_files(), " ")
        run(("mkdir %s && cp --parents -t %s %s"):format(quote(source), quote(source), files))
        run(("cd %s && %s HOME=%s luarocks --lua-version=%s make --deps-mode=none --tree %s LUA_INCDIR=%s %s")
          :format(quote(source), CLEAN, quote(folder), LUA_VERSION, quote(tree), headers, rockspec))
        assert.equal(require("integrations").version .. "\n", require_from(tree))
        assert.truthy(io.open(tree .. "/bin/integrations-emulator"))
      end)
    end)
  end
end)

describe("the source tree", function()
  it("keeps its top level to the names of the layout", function()
    local allowed = {
      csrc = true, lua = true, spec = true, rockspec = true,
      Makefile = true, LICENSE = true, ["README.md"] = true, ["CHANGELOG.md"] = true, ["CONTRIBUTING.md"] = true,
    }
    local unknown = {}
    for _, file in ipairs(project_files()) do
      local name = file:match("^[^/]+")
      if not allowed[name] and name:sub(1, 1) ~= "." then
        unknown[#unknown + 1] = file
      end
    end
    assert.same({}, unknown)
  end)

  it("holds no path of somebody's machine and no trailing blank", function()
    local faults = {}
    for _, file in ipairs(project_files()) do
      local text = read(file)
      local number = 0
      -- A file with a NUL is not text.
      for line in (text:find("%z") and "" or text .. "\n"):gmatch("(.-)\n") do
        number = number + 1
        for _, folder in ipairs { "work", "root", "home", "Users" } do
          if (" " .. line):find("[^%w._~-]/" .. folder .. "/") then
            faults[#faults + 1] = ("%s:%d: a path below /%s"):format(file, number, folder)
          end
        end
        if line:find("%s$") then
          faults[#faults + 1] = ("%s:%d: a blank at the end"):format(file, number)
        end
      end
    end
    assert.same({}, faults)
  end)
end)
