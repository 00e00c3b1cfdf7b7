# Builds, tests and installs the rock. `make` alone builds for Lua 5.4; every target takes LUA=lua5.1 ... luajit.

# The names of Debian: each is an interpreter, and a pkg-config module with its headers.
LUAS = lua5.4 luajit lua5.1 lua5.2 lua5.3
LUA ?= lua5.4
LUA_VERSION = $(if $(filter luajit,$(LUA)),5.1,$(LUA:lua%=%))

PREFIX ?= /usr/local
INST_LUADIR ?= $(PREFIX)/share/lua/$(LUA_VERSION)
INST_LIBDIR ?= $(PREFIX)/lib/lua/$(LUA_VERSION)

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
C_FLAGS = -std=c11 -fPIC -fno-plt -fvisibility=hidden -pthread -D_GNU_SOURCE $(WARNINGS) $(CURL_CFLAGS) $(CFLAGS)
L_FLAGS = $(LIBFLAG) -pthread -Wl,-z,now $(LDFLAGS)

DEMO_PACKAGES = gcc libc6-dev pkg-config libcurl4-openssl-dev lua5.4 liblua5.4-dev lua-cjson \
  nginx libnginx-mod-http-lua openssl ca-certificates
# luajit2, never luajit: nginx's Lua module and Debian's luajit exclude each other.
TEST_PACKAGES = $(DEMO_PACKAGES) lua5.1 lua5.2 lua5.3 liblua5.1-0-dev liblua5.2-dev liblua5.3-dev \
  luajit2 libluajit2-5.1-dev lua-busted lua-check lua-socket lua-sec luarocks curl
CHECK_PACKAGES = $(TEST_PACKAGES) valgrind

# Where this checkout's modules are; ';;' keeps the system's own behind them.
CHECKOUT_LUA_PATH = $(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;;
CHECKOUT_LUA_CPATH = $(CURDIR)/$(BUILD)/?.so;;

# The versioned names would win over the paths above, and an init file would run before every test.
unexport LUA_INIT LUA_INIT_5_2 LUA_INIT_5_3 LUA_INIT_5_4
unexport LUA_PATH_5_2 LUA_PATH_5_3 LUA_PATH_5_4 LUA_CPATH_5_2 LUA_CPATH_5_3 LUA_CPATH_5_4
# Debian keeps nginx in /usr/sbin, which is not in every user's PATH.
export PATH := $(PATH):/usr/sbin
MAKEFLAGS += --no-print-directory

.PHONY: all deps demo test asan valgrind soak emulator install lint bench env clean
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

# Run as root with the names of the missing packages. Debian starts a fresh nginx on port 80 at once and at every
# boot; only its program is wanted here, so a policy forbids the start and the service is disabled afterwards.
define INSTALL_PACKAGES
set -e
export DEBIAN_FRONTEND=noninteractive
if [ -x /usr/sbin/nginx ]; then fresh_nginx=false; else fresh_nginx=true; fi
if $$fresh_nginx && [ ! -e /usr/sbin/policy-rc.d ]; then
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  trap 'exit 1' HUP INT TERM
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
fi
apt-get -qq update || echo 'apt-get update failed; trying with the package lists there are' >&2
apt-get -qq -y --no-install-recommends install "$$@"
if $$fresh_nginx && [ -x /usr/sbin/nginx ]; then
  systemctl --quiet disable nginx 2>/dev/null || update-rc.d nginx disable 2>/dev/null || true
fi
endef
export INSTALL_PACKAGES

# Installs what is missing of a list of Debian packages. Needs neither root nor the network when nothing is.
define install_missing
@if ! command -v apt-get >/dev/null; then \
  echo 'Not a Debian system: the counterparts of these packages are taken to be there: $(1)'; \
  exit 0; \
fi; \
installed=$$(dpkg-query -W -f '$${Package}=$${db:Status-Status}\n' $(1) 2>/dev/null); \
missing=; \
for package in $(1); do \
  echo "$$installed" | grep -qxF "$$package=installed" || missing="$$missing $$package"; \
done; \
[ -n "$$missing" ] || exit 0; \
echo "Installing$$missing"; \
if [ "$$(id -u)" = 0 ]; then as_root=; else as_root=sudo; fi; \
if [ -n "$$as_root" ] && ! command -v sudo >/dev/null; then \
  echo "There is no sudo here. As root: apt-get install$$missing" >&2; \
  exit 1; \
fi; \
$$as_root sh -c "$$INSTALL_PACKAGES" install_packages $$missing </dev/null
endef

# What every other target needs, so that a fresh machine needs only git and make.
deps:
	$(call install_missing,$(CHECK_PACKAGES))

demo emulator bench soak: export LUA_PATH = $(CHECKOUT_LUA_PATH)
demo emulator bench soak: export LUA_CPATH = $(CHECKOUT_LUA_CPATH)

# The first thing to try after a clone: the client against the emulator, over real HTTP.
demo:
	$(call install_missing,$(DEMO_PACKAGES))
	@$(MAKE) -s all
	@$(LUA) lua/integrations/examples/demo.lua

# Everything that must hold: the builds, lint and the specs on every Lua, JOBS of them at once. For less:
# make test LUAS=lua5.4 SPEC=spec/retry_spec.lua LINT=no
test:
	$(call install_missing,$(TEST_PACKAGES))
	@MAKE='$(MAKE)' JOBS='$(JOBS)' LINT='$(LINT)' FULL='$(FULL)' \
	  $(firstword $(LUAS)) spec/support/run.lua '$(LUAS)' $(SPEC)

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
	$(call install_missing,$(CHECK_PACKAGES))
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

# Compiled in full, not only parsed: libcurl's own type checks and the flow warnings come from the optimiser.
define check_c
@echo '$(1), headers of $(2)'
@for file in $(SOURCES); do \
  $(1) -O2 -Werror $(C_FLAGS) -I$(call incdir,$(2)) -c -o /dev/null "$$file" || exit 1; \
done

endef
COMPILERS = gcc $(shell command -v clang >/dev/null && echo clang)

# Warnings are errors here and only here: a new compiler must not keep a user from building.
lint:
	luacheck --no-color --quiet lua spec
	luarocks lint $(ROCKSPEC)
	$(foreach compiler,$(COMPILERS),$(foreach lua,$(LUAS),$(call check_c,$(compiler),$(lua))))
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
