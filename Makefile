# Builds, tests and installs the rock. `make` alone builds for Lua 5.4; every target takes LUA=lua5.1 ... luajit.

# The names of Debian: each is an interpreter, and a pkg-config module with its headers.
LUAS = lua5.4 luajit lua5.1 lua5.2 lua5.3 lua5.5
LUA ?= lua5.4
LUA_VERSION = $(if $(filter luajit,$(LUA)),5.1,$(LUA:lua%=%))

PREFIX ?= /usr/local
INST_LUADIR ?= $(PREFIX)/share/lua/$(LUA_VERSION)
INST_LIBDIR ?= $(PREFIX)/lib/lua/$(LUA_VERSION)
INST_BINDIR ?= $(PREFIX)/bin
INST_DOCDIR ?= $(PREFIX)/share/doc/integrations

# A module built for one Lua does not load in another, so each Lua has a folder of its own.
BUILD = build/$(LUA)
CORE = $(BUILD)/integrations/core.so
SOURCES = $(sort $(wildcard csrc/*.c))
HEADERS = $(sort $(wildcard csrc/*.h))
OBJECTS = $(SOURCES:csrc/%.c=$(BUILD)/%.o)
LUA_FILES = $(sort $(shell find lua -name '*.lua'))
ROCKSPEC = $(wildcard rockspec/*.rockspec)
SPEC = $(sort $(wildcard spec/*_spec.lua))

# Looked up when used, not when read: `make deps` runs before there is a pkg-config.
incdir = $(or $(shell pkg-config --cflags-only-I $(1) | sed 's/^-I//; s/ .*//'),$(error no headers of $(1), or no pkg-config: run make deps))
LUA_INCDIR ?= $(call incdir,$(LUA))
CURL_CFLAGS ?= $(shell pkg-config --cflags libcurl)
CURL_LIBS ?= $(shell pkg-config --libs libcurl)

WARNINGS = -pedantic -Wall -Wextra -Wcast-align -Wcast-qual -Wconversion -Wno-sign-conversion -Wdouble-promotion \
  -Wformat=2 -Wmissing-declarations -Wmissing-prototypes -Wnested-externs -Wnull-dereference -Wold-style-definition \
  -Wpointer-arith -Wredundant-decls -Wshadow -Wstrict-prototypes -Wundef -Wvla -Wwrite-strings

CFLAGS ?= -O2
LIBFLAG ?= -shared
# no-plt: with everything bound at load time the detour of each call into Lua costs and buys nothing.
C_FLAGS = -std=c11 -fPIC -fno-plt -fvisibility=hidden -pthread -D_GNU_SOURCE $(WARNINGS) $(CURL_CFLAGS) $(CPPFLAGS) $(CFLAGS)
L_FLAGS = $(LIBFLAG) -pthread -Wl,-z,now $(LDFLAGS)

# What spec/support/packages takes: the first name of a|b that the release has; of a| none, if it has none.
packages_of = $(foreach lua,$(1),$(or $(PACKAGES_$(lua)),$(lua)| lib$(lua)-dev|))
PACKAGES_lua5.1 = lua5.1| liblua5.1-0-dev|
# The LuaJIT that nginx's Lua module uses, and excludes all others: luajit2 in Debian 12, luajit since.
PACKAGES_luajit = luajit2|luajit| libluajit2-5.1-dev|libluajit-5.1-dev|
DEMO_PACKAGES = gcc libc6-dev pkg-config libcurl4-openssl-dev $(call packages_of,$(LUA)) lua-cjson \
  nginx libnginx-mod-http-lua openssl ca-certificates
# lua5.4 runs the fault server, and inside nginx the core is LuaJIT's, whose headers that takes.
TEST_PACKAGES = $(DEMO_PACKAGES) $(call packages_of,lua5.4 $(LUAS)) $(lastword $(PACKAGES_luajit)) \
  lua-busted lua-check lua-socket lua-sec luarocks curl

# Where this checkout's modules are; ';;' keeps the system's own behind them.
CHECKOUT_LUA_PATH = $(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;;
# What Debian lacks for this Lua, and spec/support/cjson builds, comes in between.
CHECKOUT_LUA_CPATH = $(CURDIR)/$(BUILD)/?.so;$(CURDIR)/build/modules/$(LUA)/?.so;;

# The versioned names would win over the paths above, and an init file would run before every test.
unexport LUA_INIT $(foreach version,5_2 5_3 5_4 5_5,$(addsuffix _$(version),LUA_INIT LUA_PATH LUA_CPATH))
# Debian keeps nginx in /usr/sbin, which is not in every user's PATH.
export PATH := $(PATH):/usr/sbin
MAKEFLAGS += --no-print-directory

.PHONY: all deps demo test fresh asan valgrind soak emulator install uninstall lint bench env clean
.DELETE_ON_ERROR:

# One Lua at a time: a user has one, and waits for one.
all: $(CORE)

$(CORE): $(OBJECTS)
	@mkdir -p $(@D)
	$(CC) $(L_FLAGS) -o $@ $(OBJECTS) $(CURL_LIBS)

# The Makefile is a prerequisite because the flags are in it.
$(BUILD)/%.o: csrc/%.c Makefile
	@mkdir -p $(@D)
	$(CC) $(C_FLAGS) -I$(LUA_INCDIR) -MMD -MP -c -o $@ $<

-include $(OBJECTS:.o=.d)

install_missing = @spec/support/packages '$(sort $(1))'

# What every other target needs, so that a fresh machine needs only git and make.
deps:
	$(call install_missing,$(TEST_PACKAGES) valgrind)

demo emulator bench soak: export LUA_PATH = $(CHECKOUT_LUA_PATH)
demo emulator bench soak: export LUA_CPATH = $(CHECKOUT_LUA_CPATH)

# The first thing to try after a clone: the client against the emulator, over real HTTP.
demo:
	$(call install_missing,$(DEMO_PACKAGES))
	@spec/support/cjson $(LUA)
	@$(MAKE) -s all
	@$(LUA) lua/integrations/examples/demo.lua

# Everything that must hold: the builds, lint and the specs on every Lua, JOBS of them at once. For less:
# make test LUAS=lua5.4 SPEC=spec/retry_spec.lua LINT=no
test:
	$(call install_missing,$(TEST_PACKAGES))
	@luas=$$(spec/support/luas $(LUAS)) && \
	  MAKE='$(MAKE)' JOBS='$(JOBS)' LINT='$(LINT)' FULL='$(FULL)' $${luas%% *} spec/support/run.lua "$$luas" $(SPEC)

# The README's commands where there is nothing but git and make: on a bare Debian with a clone of the last commit.
# make fresh SUITE=sid TARGETS=test LUAS=lua5.4
SUITE ?= trixie
TARGETS ?= demo test
fresh:
	@spec/support/fresh '$(SUITE)' '$(TARGETS)' $(MAKEOVERRIDES)

# What the runner starts each spec with.
build/keep: spec/support/keep.c
	@mkdir -p $(@D)
	gcc -std=c11 -D_GNU_SOURCE -O1 -Wall -Wextra -o $@ $<

# These reach no C of ours, or none that the others do not reach: watched they would say what `test` has said. Nobody
# watches nginx.
UNWATCHED = call contributing documentation emulator emulator_rocketchat emulator_segments emulator_server ensure \
  failure http_date json listing match nginx nginx_fault nginx_phase nginx_process openapi packaging rate_limit refusal \
  retry rocketchat sendgrid service suite task

# The other specs once more, with each Lua process watched for errors and leaks of memory, by AddressSanitizer with
# UndefinedBehaviorSanitizer or by valgrind. Each has builds of its own, and takes LUAS, SPEC, JOBS and FULL as `test`
# does.
asan valgrind: SPEC = $(filter-out $(UNWATCHED:%=spec/%_spec.lua),$(sort $(wildcard spec/*_spec.lua)))
asan: WATCHED_CFLAGS = -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined,float-cast-overflow
# The second one's runtime is hidden in the core: else it takes the first one's functions for its own, and its
# reports go astray.
asan: WATCHED_LDFLAGS = -fsanitize=address,undefined -static-libubsan -Wl,--exclude-libs,ALL
valgrind: WATCHED_CFLAGS = -O2 -g
asan valgrind:
	$(call install_missing,$(TEST_PACKAGES) $(filter valgrind,$@))
	@rm -rf build/$@/bin
	@mkdir -p build/$@/bin
	@for lua in $(LUAS); do ln -s ../../../spec/support/instrumented build/$@/bin/$$lua; done
	@ln -sf "$$(gcc -print-file-name=libasan.so)" build/$@/libasan.so
	@gcc -shared -fPIC -o build/$@/forget_preload.so spec/support/forget_preload.c
	@INTEGRATIONS_INSTRUMENTED=$@ $(MAKE) test CC=gcc BUILD='build/$@/$$(LUA)' \
	  CFLAGS='$(WATCHED_CFLAGS)' LDFLAGS='$(WATCHED_LDFLAGS)' SPEC='$(SPEC)'

# A stand-in of the services to try things against, until Ctrl-C.
emulator: all
	@$(LUA) lua/integrations/emulator/command.lua

# For packagers and for those without LuaRocks.
install: all
	install -D -m 755 $(CORE) '$(DESTDIR)$(INST_LIBDIR)/integrations/core.so'
	@for file in $(LUA_FILES:lua/%=%); do \
	  install -D -m 644 "lua/$$file" '$(DESTDIR)$(INST_LUADIR)/'"$$file" || exit 1; \
	done
	install -D -m 644 LICENSE '$(DESTDIR)$(INST_DOCDIR)/LICENSE'
	@mkdir -p '$(DESTDIR)$(INST_BINDIR)'
	sed '1s/lua$$/$(LUA)/' lua/integrations/emulator/command.lua >'$(DESTDIR)$(INST_BINDIR)/integrations-emulator'
	@chmod 755 '$(DESTDIR)$(INST_BINDIR)/integrations-emulator'

uninstall:
	rm -rf '$(DESTDIR)$(INST_LIBDIR)/integrations' '$(DESTDIR)$(INST_LUADIR)/integrations' \
	  '$(DESTDIR)$(INST_DOCDIR)' '$(DESTDIR)$(INST_BINDIR)/integrations-emulator'

# Compiled in full, not only parsed: libcurl's own type checks and the flow warnings come from the optimiser.
define check_c
@echo '$(1), headers of $(2)'
@for file in $(SOURCES); do \
  $(1) -O2 -Werror $(C_FLAGS) -I$(call incdir,$(2)) -c -o /dev/null "$$file" || exit 1; \
done

endef
# Where a Lua is not to be had, `make test` says so.
CHECKED_LUAS = $(or $(shell for lua in $(LUAS); do pkg-config --exists $$lua && echo $$lua; done),$(LUAS))
COMPILERS = gcc $(shell command -v clang >/dev/null && echo clang)

# Warnings are errors here and only here: a new compiler must not keep a user from building.
lint:
	luacheck --no-color --quiet lua spec
	luarocks lint $(ROCKSPEC)
	$(foreach compiler,$(COMPILERS),$(foreach lua,$(CHECKED_LUAS),$(call check_c,$(compiler),$(lua))))
	@if command -v clang-format >/dev/null; then clang-format --dry-run -Werror $(SOURCES) $(HEADERS); fi

# Needs the flags that users build with: a debug build would measure itself. All, or one of the sections:
# make bench SECTION=nginx
bench: all
	@MAKE='$(MAKE)' $(LUA) spec/bench/run.lua $(SECTION)

# Very many calls of every kind, good and bad, and whether the process grows with them.
SOAK_CALLS ?= 1000000
soak: all
	@$(LUA) spec/soak/run.lua $(SOAK_CALLS)

# eval "$(make -s env LUA=luajit)" makes a shell use this checkout. Only the two lines go to stdout.
env:
	@$(MAKE) all >&2
	@printf "export LUA_%s='%s'\n" PATH '$(CHECKOUT_LUA_PATH)' CPATH '$(CHECKOUT_LUA_CPATH)'

# A build of ours is in one folder; the rest is what `luarocks make` leaves.
clean:
	rm -rf build integrations csrc/*.o
