# riverlua. `make help` lists the targets.
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:

VERSION := $(shell sed -n 's/^.define RIVERLUA_VERSION "\(.*\)"/\1/p' src/riverlua.h)
SOVERSION := 0

# V=1 shows the commands
ifneq ($(V),1)
Q = @
endif

BUILD ?= build
PREFIX ?= /usr/local
ifeq ($(origin CC),default)
CC = cc
endif
CFLAGS ?= -O2 -g
WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion
PKG_CFLAGS = $(shell pkg-config --cflags lua5.4 lua5.4-cjson libuv zlib nettle libpcre2-8 libcurl \
  libprotobuf-c libnghttp2)
PKG_LIBDIR = $(shell pkg-config --variable=libdir lua5.4)
ALL_CFLAGS = -std=c11 -D_GNU_SOURCE $(WARNINGS) -Isrc -I$(BUILD) $(PKG_CFLAGS) $(CFLAGS)

LIB_C := $(filter-out src/main.c,$(wildcard src/*.c src/trainer/*.c))
LUA_FILES := $(shell cd lua && find . -name '*.lua' | sed 's|^\./||' | LC_ALL=C sort)
OBJECTS := $(LIB_C:src/%.c=$(BUILD)/obj/%.o) $(BUILD)/obj/embedded.o $(BUILD)/obj/training.pb-c.o
# The trainer's kernels are compiled once per instruction set; the processor decides in rvl_kernels_pick.
KERNEL_C := $(wildcard src/trainer/kernels*.c)
KERNEL_FLAGS := -O3 -fopenmp-simd -ffp-contract=fast -fno-math-errno -fno-trapping-math
KERNEL_FLAGS_avx2 := -mavx2 -mfma -DRVL_KERNELS_EXTRA=avx2
KERNEL_FLAGS_avx512 := -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512 \
  -DRVL_KERNELS_EXTRA=avx512
ifneq ($(filter x86_64-%,$(shell $(CC) -dumpmachine)),)
KERNEL_SETS := avx2 avx512
KERNEL_FLAGS += -DRVL_KERNELS_X86
endif
OBJECTS += $(foreach set,$(KERNEL_SETS),$(KERNEL_C:src/%.c=$(BUILD)/obj/%.$(set).o))
PIC_OBJECTS := $(OBJECTS:$(BUILD)/obj/%=$(BUILD)/pic/%)
# Lua, libuv, zlib, nettle, PCRE2, protobuf-c and nghttp2 are linked into the binary: fewer shared objects, a faster
# start. libcurl and libwslay are loaded on first use.
STATIC_LIBS = $(PKG_LIBDIR)/liblua5.4.a $(PKG_LIBDIR)/liblua5.4-cjson.a \
  $(firstword $(wildcard $(PKG_LIBDIR)/libuv_a.a $(PKG_LIBDIR)/libuv.a) -luv) \
  $(firstword $(wildcard $(PKG_LIBDIR)/libz.a) -lz) \
  $(firstword $(wildcard $(PKG_LIBDIR)/libnettle.a) -lnettle) \
  $(firstword $(wildcard $(PKG_LIBDIR)/libpcre2-8.a) -lpcre2-8) \
  $(firstword $(wildcard $(PKG_LIBDIR)/libprotobuf-c.a) -lprotobuf-c) \
  $(firstword $(wildcard $(PKG_LIBDIR)/libnghttp2.a) -lnghttp2)
SYSTEM_LIBS = -lm -ldl -lpthread

.PHONY: all
all: $(BUILD)/riverlua $(BUILD)/libriverlua.a $(BUILD)/libriverlua.so $(BUILD)/riverlua.pc

$(BUILD)/riverlua: $(BUILD)/obj/main.o $(BUILD)/libriverlua.a src/riverlua.map
	@echo "  LINK $@"
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -Wl,--dynamic-list=src/riverlua.map -o $@ $< $(BUILD)/libriverlua.a $(STATIC_LIBS) \
	  $(SYSTEM_LIBS)

$(BUILD)/libriverlua.a: $(OBJECTS)
	@echo "  AR   $@"
	$(Q)rm -f $@
	$(Q)ar rcs $@ $^

$(BUILD)/libriverlua.so.$(SOVERSION): $(PIC_OBJECTS)
	@echo "  LINK $@"
	$(Q)$(CC) -shared $(CFLAGS) $(LDFLAGS) -Wl,-soname,libriverlua.so.$(SOVERSION) -Wl,--no-undefined -o $@ $^ \
	  -llua5.4 -llua5.4-cjson -luv -lz -lnettle -lpcre2-8 -lprotobuf-c -lnghttp2 $(SYSTEM_LIBS)

$(BUILD)/libriverlua.so: $(BUILD)/libriverlua.so.$(SOVERSION)
	$(Q)ln -sf libriverlua.so.$(SOVERSION) $@

$(BUILD)/riverlua.pc: riverlua.pc.in src/riverlua.h Makefile
	$(Q)sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' $< > $@

$(BUILD)/obj/%.o: src/%.c | $(BUILD)/obj/trainer
	@echo "  CC   $<"
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/pic/%.o: src/%.c | $(BUILD)/pic/trainer
	@echo "  CC   $< (shared)"
	$(Q)$(CC) $(ALL_CFLAGS) -fPIC -fvisibility=hidden -MMD -MP -c -o $@ $<

$(KERNEL_C:src/%.c=$(BUILD)/obj/%.o) $(KERNEL_C:src/%.c=$(BUILD)/pic/%.o): ALL_CFLAGS += $(KERNEL_FLAGS)

define kernel_set
$(BUILD)/obj/trainer/%.$(1).o: src/trainer/%.c | $(BUILD)/obj/trainer
	@echo "  CC   $$< ($(1))"
	$$(Q)$$(CC) $$(ALL_CFLAGS) $$(KERNEL_FLAGS) $$(KERNEL_FLAGS_$(1)) -MMD -MP -c -o $$@ $$<

$(BUILD)/pic/trainer/%.$(1).o: src/trainer/%.c | $(BUILD)/pic/trainer
	@echo "  CC   $$< ($(1), shared)"
	$$(Q)$$(CC) $$(ALL_CFLAGS) $$(KERNEL_FLAGS) $$(KERNEL_FLAGS_$(1)) -fPIC -fvisibility=hidden -MMD -MP -c -o $$@ $$<
endef
$(foreach set,$(KERNEL_SETS),$(eval $(call kernel_set,$(set))))

$(BUILD)/obj/embedded.o $(BUILD)/pic/embedded.o: $(BUILD)/embedded.S | $(BUILD)/obj $(BUILD)/pic
	$(Q)$(CC) -c -o $@ $<

# The messages of the training service. protobuf-c's output is its own business: no warnings of ours, no assertions, and
# of its names only the service's is seen, by one of ours: a host may have messages of the same names.
PROTO_CFLAGS = -std=c11 -DNDEBUG $(PKG_CFLAGS) $(CFLAGS)
PROTO_SERVICE = river__api__v1__river_service__descriptor
HIDE_PROTO = objcopy --keep-global-symbol=$(PROTO_SERVICE) $@ && \
  objcopy --redefine-sym $(PROTO_SERVICE)=rvl_training_service $@

$(BUILD)/training.pb-c.c: src/training.proto | $(BUILD)/obj
	@echo "  PROTO $<"
	$(Q)protoc-c --proto_path=src --c_out=$(BUILD) $<

$(BUILD)/obj/training.pb-c.o: $(BUILD)/training.pb-c.c
	$(Q)$(CC) $(PROTO_CFLAGS) -c -o $@ $< && $(HIDE_PROTO)

$(BUILD)/pic/training.pb-c.o: $(BUILD)/training.pb-c.c | $(BUILD)/pic
	$(Q)$(CC) $(PROTO_CFLAGS) -fPIC -fvisibility=hidden -c -o $@ $< && $(HIDE_PROTO)

# The list is a file so that a Lua file added or removed is noticed.
$(BUILD)/lua_files: FORCE | $(BUILD)/obj
	@echo '$(LUA_FILES)' | cmp -s - $@ || echo '$(LUA_FILES)' > $@

$(BUILD)/embedded.S: src/tools/embed.sh $(BUILD)/lua_files $(LUA_FILES:%=lua/%)
	@echo "  LUA  $@"
	$(Q)src/tools/embed.sh lua $(LUA_FILES) > $@

# Powers of ten for decimal.c, computed exactly rather than trusted.
$(BUILD)/gen_pow10: src/tools/gen_pow10.c | $(BUILD)/obj
	$(Q)$(CC) -std=c11 $(WARNINGS) -O1 -o $@ $<

$(BUILD)/pow10.h: $(BUILD)/gen_pow10
	$(Q)$< > $@

$(BUILD)/obj/decimal.o $(BUILD)/pic/decimal.o: $(BUILD)/pow10.h

# trainer by name: a folder of an older build has none
$(BUILD)/obj $(BUILD)/pic $(BUILD)/obj/trainer $(BUILD)/pic/trainer:
	$(Q)mkdir -p $@

# ---- setting up ---------------------------------------------------------------------------------------

.PHONY: deps test-deps
deps:            ## install what the build needs (apt), or say what is missing
	@src/tools/deps.sh build

TEST_PACKAGES := $(BUILD)/venv/ready $(BUILD)/npm/ready $(BUILD)/json-schema/ready $(BUILD)/grpc_interop/ready \
  $(BUILD)/curl8/ready

test-deps: $(TEST_PACKAGES) ## install what the tests need (apt, PyPI and npm into build)
	@src/tools/deps.sh test

$(BUILD)/venv/ready: tests/requirements.txt tests/requirements-nodeps.txt
	@src/tools/deps.sh test
	@echo "installing the Python packages of the tests into $(BUILD)/venv"
	$(Q)python3 -m venv $(BUILD)/venv
	$(Q)$(BUILD)/venv/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	$(Q)$(BUILD)/venv/bin/pip install --quiet --disable-pip-version-check --no-deps \
	  --ignore-requires-python -r tests/requirements-nodeps.txt
	$(Q)touch $@

# The official JSON Schema test suite comes with the source of the Python package, in the version the tests use.
JSONSCHEMA_VERSION = $(shell sed -n 's/^jsonschema==//p' tests/requirements.txt)

$(BUILD)/json-schema/ready: tests/requirements.txt $(BUILD)/venv/ready
	$(Q)rm -rf $(@D) && mkdir -p $(@D)
	$(Q)$(BUILD)/venv/bin/pip download --quiet --disable-pip-version-check --no-deps --no-binary jsonschema \
	  --dest $(@D) jsonschema==$(JSONSCHEMA_VERSION)
	$(Q)tar -xzf $(@D)/jsonschema-$(JSONSCHEMA_VERSION).tar.gz -C $(@D) --strip-components=2 \
	  jsonschema-$(JSONSCHEMA_VERSION)/json/tests/draft2020-12 jsonschema-$(JSONSCHEMA_VERSION)/json/remotes
	$(Q)rm $(@D)/jsonschema-$(JSONSCHEMA_VERSION).tar.gz
	$(Q)touch $@

# Public test suites, and the JavaScript library that the official client of ModelRiver rides on. Without npm their
# tests are skipped: npm alone is 400 packages of Debian's.
$(BUILD)/npm/ready: tests/npm-packages.txt
	$(Q)mkdir -p $(BUILD)/npm
	$(Q)if command -v npm >/dev/null; then \
	  npm install --prefix $(BUILD)/npm --no-save --ignore-scripts --no-audit --no-fund --loglevel=error $$(cat $<); \
	else echo "npm is not there: tests with packages of npm are skipped"; fi
	$(Q)touch $@

# The gRPC server of grpc-go. A machine that can have no Go or no modules goes without, and tries again the next time;
# what does not compile is an error.
GO_BUILD = GOTOOLCHAIN=local CGO_ENABLED=0 go
GO_INTEROP = tests/servers/grpc_interop

$(BUILD)/grpc_interop/ready: $(GO_INTEROP)/go.mod $(GO_INTEROP)/go.sum $(wildcard $(GO_INTEROP)/*.go) \
  | $(BUILD)/venv/ready
	$(Q)mkdir -p $(@D)
	$(Q)if ! command -v go >/dev/null; then echo "go is not there: tests with grpc-go are skipped"; \
	elif ! (cd $(GO_INTEROP) && $(GO_BUILD) mod download) >$(@D)/log 2>&1; then \
	  tail -n 3 $(@D)/log; echo "no Go modules can be had: tests with grpc-go are skipped"; \
	else echo "building the grpc-go server of the tests" && \
	  (cd $(GO_INTEROP) && $(GO_BUILD) build -mod=readonly -trimpath -buildvcs=false \
	    -o $(abspath $(@D))/server .) && touch $@; fi

.PHONY: curl8
curl8: $(BUILD)/curl8/ready ## libcurl 8 of Debian's backports beside an older one, for the tests

$(BUILD)/curl8/ready: tests/newer_libcurl.sh | $(BUILD)/venv/ready
	$(Q)$< $(@D)

# PyTorch, against which the trainer is proved and measured: a large download, so only when asked for.
.PHONY: torch
torch: $(BUILD)/torch/ready ## PyTorch in build/torch, for the trainer's live tests and benchmarks

$(BUILD)/torch/ready: tests/requirements-torch.txt
	$(Q)python3 -m venv $(BUILD)/torch
	$(Q)$(BUILD)/torch/bin/pip install --quiet --disable-pip-version-check -r $<
	$(Q)touch $@

# What the embedded trainer's models know before they are trained. Without OpenBLAS they are left out, and tried again
# the next time; riverlua makes them, too, where it is first asked for one.
.PHONY: base-models
base-models: $(BUILD)/base-models/ready ## the embedded trainer's base models (seconds)

RECIPES := $(addprefix lua/training/embedded/,base_models.lua pretrain.lua tasks.lua)

$(BUILD)/base-models/ready: src/tools/base_models.lua $(RECIPES) | $(BUILD)/riverlua
	$(Q)mkdir -p $(@D)
	$(Q)$(BUILD)/riverlua $< $(@D)
	$(Q)if test -d $(@D)/embedded; then touch $@; fi

# ---- using --------------------------------------------------------------------------------------------

# $(MAKE) again: what pkg-config says is asked for after the packages are there
.PHONY: demo
demo: deps       ## set up, build, and train a small model by reinforcement learning on this machine
	@$(MAKE) --no-print-directory all base-models
	@echo
	@env -u RIVER_API_KEY -u RIVER_ENDPOINT -u RIVER_MODEL $(BUILD)/riverlua examples/grpo_gsm8k.lua

.PHONY: install
install: all base-models ## install into DESTDIR/PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include
	install -m 755 $(BUILD)/riverlua $(DESTDIR)$(PREFIX)/bin/riverlua
	install -m 644 $(BUILD)/libriverlua.a $(DESTDIR)$(PREFIX)/lib/libriverlua.a
	install -m 755 $(BUILD)/libriverlua.so.$(SOVERSION) $(DESTDIR)$(PREFIX)/lib/libriverlua.so.$(SOVERSION)
	ln -sf libriverlua.so.$(SOVERSION) $(DESTDIR)$(PREFIX)/lib/libriverlua.so
	install -m 644 src/riverlua.h $(DESTDIR)$(PREFIX)/include/riverlua.h
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' riverlua.pc.in \
	  > $(DESTDIR)$(PREFIX)/lib/pkgconfig/riverlua.pc
	cd $(BUILD)/base-models && for file in embedded/*/*.*; do \
	  test ! -f $$file || install -D -m 644 $$file $(abspath $(DESTDIR)$(PREFIX))/share/riverlua/base-models/$$file || exit 1; \
	done

# ---- proving ------------------------------------------------------------------------------------------

C_TESTS := $(patsubst %.c,$(BUILD)/%,$(shell find tests -name 'test_*.c'))

$(BUILD)/tests/%: tests/%.c $(BUILD)/libriverlua.a
	@mkdir -p $(@D)
	@echo "  CC   $<"
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< $(BUILD)/libriverlua.a $(STATIC_LIBS) $(SYSTEM_LIBS) -lcmocka

.PHONY: test
test: deps test-deps ## set up, build and run all tests (TESTS="json task": only those)
	@$(MAKE) --no-print-directory all
	@$(MAKE) --no-print-directory c-tests base-models
	@$(BUILD)/riverlua tests/run.lua --build $(BUILD) $(TESTS)

.PHONY: c-tests
c-tests: $(C_TESTS)

.PHONY: lint
lint:            ## luacheck, and warnings as errors with gcc and clang
	luacheck -q lua examples tests bench
	$(MAKE) --no-print-directory BUILD=build-gcc CC=gcc CFLAGS="-O2 -Werror" all
	$(MAKE) --no-print-directory BUILD=build-clang CC=clang CFLAGS="-O2 -Werror" all

SANITIZE_TESTS := json array nest task runtime sse http river_embedded server river_serve websocket schema modelriver \
  grpc protobuf training trainer plot

.PHONY: asan
asan: test-deps base-models ## the tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(MAKE) --no-print-directory BUILD=build-asan \
	  CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined" all c-tests
	RIVERLUA_BASE_MODELS=$(BUILD)/base-models ASAN_OPTIONS=detect_leaks=1:quarantine_size_mb=4 \
	  build-asan/riverlua tests/run.lua --build build-asan $(SANITIZE_TESTS)

.PHONY: tsan
tsan: test-deps  ## the C tests with threads under ThreadSanitizer
	$(MAKE) --no-print-directory BUILD=build-tsan CFLAGS="-O1 -g -fsanitize=thread" all c-tests
	build-tsan/riverlua tests/run.lua --build build-tsan test_riverlua test_heartbeat test_pool \
	  test_engine test_host test_pass test_sampler test_trainable

.PHONY: valgrind
valgrind: all c-tests ## scripts and C tests under valgrind
	tests/valgrind.sh $(BUILD)

FUZZ_TARGETS := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_SECONDS ?= 60
FUZZ_FLAGS := -O1 -g -fsanitize=fuzzer-no-link,address,undefined

.PHONY: fuzz
fuzz:            ## run every fuzz target for FUZZ_SECONDS (needs clang)
	$(MAKE) --no-print-directory BUILD=build-fuzz CC=clang CFLAGS="$(FUZZ_FLAGS)" build-fuzz/libriverlua.a fuzz-targets
	for target in $(FUZZ_TARGETS); do \
	  mkdir -p build-fuzz/corpus/$$target && \
	  build-fuzz/$$target -max_total_time=$(FUZZ_SECONDS) -max_len=4096 build-fuzz/corpus/$$target || exit 1; \
	done

.PHONY: fuzz-targets
fuzz-targets: $(FUZZ_TARGETS:%=$(BUILD)/%)

$(BUILD)/fuzz_%: tests/fuzz/fuzz_%.c $(wildcard tests/fuzz/*.h) $(BUILD)/libriverlua.a
	$(CC) $(ALL_CFLAGS) -fsanitize=fuzzer -o $@ $< $(BUILD)/libriverlua.a $(STATIC_LIBS) $(SYSTEM_LIBS)

.PHONY: bench
bench: test-deps ## benchmarks: ratios against the peers
	@$(MAKE) --no-print-directory all
	$(BUILD)/venv/bin/python bench/run.py

.PHONY: clean FORCE
clean:           ## remove everything built
	rm -rf $(BUILD) build-asan build-tsan build-fuzz build-gcc build-clang

.PHONY: help
help:            ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  make %-10s %s\n", $$1, $$2 }'

-include $(wildcard $(BUILD)/obj/*.d $(BUILD)/obj/trainer/*.d $(BUILD)/pic/*.d $(BUILD)/pic/trainer/*.d)
