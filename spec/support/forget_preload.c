/* Loaded behind the runtime of a sanitizer: what the watched process starts is not to load it, too. */
#include <stdlib.h>

__attribute__((constructor)) static void forget_preload(void) {
  unsetenv("LD_PRELOAD");
}
