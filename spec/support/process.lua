--- The operating system, for specs: commands, files, this process, and processes forked from it.
--
-- fork needs a few lines of C. They name the five functions of Lua's C API that are the same in every
-- version, so that one build without Lua's headers serves all of them.
local process = {}

local SOURCE = [[
#include <malloc.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define VALGRIND_CLO_CHANGE(option)
#endif

typedef struct lua_State lua_State;
typedef int (*lua_CFunction)(lua_State *L);
void lua_createtable(lua_State *L, int positions, int fields);
void lua_pushcclosure(lua_State *L, lua_CFunction function, int upvalues);
void lua_pushnumber(lua_State *L, double number);
double luaL_checknumber(lua_State *L, int index);
void lua_setfield(lua_State *L, int index, const char *name);

/* What a child cannot give back, since it is its parent's, is not leaked. */
static int process_fork(lua_State *L) {
  pid_t pid = fork();
  if (pid == 0) VALGRIND_CLO_CHANGE("--leak-check=no");
  lua_pushnumber(L, pid);
  return 1;
}

static int process_exit(lua_State *L) {
  _exit((int)luaL_checknumber(L, 1));
}

/* The exit status, or the negative number of the signal that ended it. */
static int process_wait(lua_State *L) {
  int status = 0;
  waitpid((pid_t)luaL_checknumber(L, 1), &status, 0);
  lua_pushnumber(L, WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
  return 1;
}

/* A program that started this one may have it ignored, which a test must not inherit. */
static int process_default_sigpipe(lua_State *L) {
  (void)L;
  signal(SIGPIPE, SIG_DFL);
  return 0;
}

/* Bytes: of the heap, and of the blocks that are too large for it. */
static int process_allocated(lua_State *L) {
  struct mallinfo2 info = mallinfo2();
  lua_pushnumber(L, info.uordblks + info.hblkhd);
  return 1;
}

/* Else malloc learns, from one large block that is freed, to keep the next one's place. */
static int process_give_back(lua_State *L) {
  (void)L;
  mallopt(M_MMAP_THRESHOLD, 128 * 1024);
  return 0;
}

int luaopen_process(lua_State *L) {
  lua_createtable(L, 0, 6);
  lua_pushcclosure(L, process_fork, 0);
  lua_setfield(L, -2, "fork");
  lua_pushcclosure(L, process_exit, 0);
  lua_setfield(L, -2, "exit");
  lua_pushcclosure(L, process_wait, 0);
  lua_setfield(L, -2, "wait");
  lua_pushcclosure(L, process_default_sigpipe, 0);
  lua_setfield(L, -2, "default_sigpipe");
  lua_pushcclosure(L, process_allocated, 0);
  lua_setfield(L, -2, "allocated");
  lua_pushcclosure(L, process_give_back, 0);
  lua_setfield(L, -2, "give_back");
  return 1;
}
]]

--- Where the module is built. Absolute, since a program of `run_lua` may be in another folder.
local MODULE = "build/spec/process.so"

function process.quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

--- What a command wrote, to either output.
function process.shell(command)
  local pipe = assert(io.popen("{ " .. command .. "\n} 2>&1"))
  local output = pipe:read("*a")
  pipe:close()
  return output
end

function process.has_command(name)
  return process.shell("command -v " .. name) ~= ""
end

function process.write_file(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
end

function process.read_file(path)
  local file = io.open(path, "rb")
  local text = file and file:read("*a")
  if file then file:close() end
  return text
end

function process.new_folder()
  return (assert(process.shell('mktemp -d "${TMPDIR:-/tmp}/integrations-spec.XXXXXXXXXX"'):match("^(/[^\n]+)\n$")))
end

function process.remove_folder(path)
  process.shell("rm -rf " .. process.quote(path))
end

--- "asan" or "valgrind" where one of them watches this process; it is larger then, and slower. Else nil.
process.instrumented = os.getenv "INTEGRATIONS_INSTRUMENTED"

--- How many times as long something may take: valgrind interprets.
process.slowness = process.instrumented == "valgrind" and 30 or 1

local TRIES = 6

--- Runs a check that watches the clock: with short times first, and with times twice as long where it says that
--- something came too late, as it does on a busy machine. What is wrong is so at any speed: the check raises it, and
--- nothing is repeated. What is too late with the longest times is raised, too.
---@param check fun(scale: number): string? its times, and their bounds, all grow by the factor; it returns what came
---  too late, if something did
function process.patiently(check)
  local scale = math.min(process.slowness, 4)
  for try = 1, TRIES do
    local late = check(scale)
    if not late then return end
    if try == TRIES then error(late, 2) end
    process.report_repeat(late)
    scale = scale * 2
  end
end

--- Says that something is done again, so that the runner shows it: too many of these hide what is wrong.
---@param late string what came too late
function process.report_repeat(late)
  print("\nreport: again, with more time: " .. late)
end

--- The command of the Lua that runs this spec.
function process.interpreter()
  local first = 0
  while arg[first - 1] do first = first - 1 end
  return arg[first]
end

--- Runs a program with the Lua of this spec and its search paths. `environment` is a list of VAR=value.
--- Returns what it wrote and its exit status; one that a signal ended has 128 more than the signal.
function process.run_lua(program, environment)
  local path = os.tmpname()
  process.write_file(path, program)
  local words = { "env" }
  for _, setting in ipairs(environment or {}) do words[#words + 1] = process.quote(setting) end
  words[#words + 1] = "LUA_PATH=" .. process.quote(package.path)
  words[#words + 1] = "LUA_CPATH=" .. process.quote(package.cpath)
  words[#words + 1] = process.quote(os.getenv "INTEGRATIONS_LUA" or process.interpreter())
  words[#words + 1] = process.quote(path)
  local output = process.shell("( " .. table.concat(words, " ") .. " ); echo \"status $?\"")
  os.remove(path)
  local text, status = output:match("^(.*)status (%d+)\n$")
  return text, tonumber(status)
end

--- fork() -> pid, exit(status), wait(pid) -> status, default_sigpipe(), allocated() -> bytes, give_back(): large blocks
--- to the system, as soon as they are freed; or nil where there is no C compiler.
function process.forking()
  if not process.has_command("gcc") then return nil end
  local temporary = MODULE .. "." .. tostring({}):match("%w+$")
  process.shell("mkdir -p build/spec")
  process.write_file(temporary .. ".c", SOURCE)
  local output = process.shell(("gcc -O1 -shared -fPIC -o %s %s.c && mv %s %s; rm -f %s.c"):format(
    temporary, temporary, temporary, MODULE, temporary))
  return assert(package.loadlib("./" .. MODULE, "luaopen_process"), output)()
end

--- A line of Lua that makes `process` the module of `forking` in another program.
process.LOAD = ("local process = assert(package.loadlib(%q, 'luaopen_process'))()\n"):format("./" .. MODULE)

function process.id()
  return tonumber(process.read_file("/proc/self/stat"):match("^%d+"))
end

--- All processes below one.
---@param pid string|integer
---@return string[]
function process.below(pid)
  local found = {}
  for child in (process.read_file(("/proc/%s/task/%s/children"):format(pid, pid)) or ""):gmatch "%d+" do
    found[#found + 1] = child
    for _, grandchild in ipairs(process.below(child)) do found[#found + 1] = grandchild end
  end
  return found
end

--- Bytes of memory that are this process's now.
function process.memory()
  return tonumber(process.read_file("/proc/self/status"):match("VmRSS:%s*(%d+) kB")) * 1024
end

--- How many files, sockets among them, this process has open. Pipes are left out: the one to the shell that
--- counts is there, with one end or still with both.
function process.open_files()
  local list = ("ls -l /proc/%d/fd 2>/dev/null"):format(process.id())
  return tonumber(process.shell(list .. " | grep -c ' -> [^p]'"):match("%d+"))
end

return process
