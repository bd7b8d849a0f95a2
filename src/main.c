/* The riverlua command: a host like any other. What it does is written in lua/riverlua/cli.lua. */
#include "riverlua.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static riverlua *runtime;
static pthread_t main_thread;

/* The first one stops the script; a second one before the script has stopped ends the process. */
static void on_interrupt(int signal_number) {
  if (!pthread_equal(pthread_self(), main_thread)) {
    pthread_kill(main_thread, signal_number);
    return;
  }
  if (riverlua_interrupt_pending(runtime)) {
    signal(signal_number, SIG_DFL);
    raise(signal_number);
    return;
  }
  riverlua_interrupt(runtime);
}

/* A file that grows beyond the limit for its size is an error of what writes it, not the end of the program. Not
 * SIG_IGN: programs that are started would have it, too. */
static void on_size_limit(int signal_number) { (void)signal_number; }

/* -E before the script's name: the standard libraries must not look at the environment while they open. */
static int ignores_environment(int argc, char **argv) {
  for (int i = 1; i < argc && argv[i][0] == '-'; i++) {
    const char *option = argv[i];
    if (strcmp(option, "-E") == 0) return 1;
    if (strcmp(option, "-") == 0 || strcmp(option, "--") == 0) return 0;
    if (strcmp(option, "-e") == 0 || strcmp(option, "-l") == 0) i++;
  }
  return 0;
}

int main(int argc, char **argv) {
  riverlua_config config;
  riverlua_config_init(&config);
  config.ignore_environment = ignores_environment(argc, argv);
  runtime = riverlua_new(&config);
  if (runtime == NULL) {
    fprintf(stderr, "%s: cannot start: not enough memory\n", argv[0]);
    return EXIT_FAILURE;
  }
  main_thread = pthread_self();
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_interrupt;
  sigaction(SIGINT, &action, NULL);
  action.sa_handler = on_size_limit;
  sigaction(SIGXFSZ, &action, NULL);
  int code = riverlua_command(runtime, argc, argv);
  if (code != EXIT_SUCCESS && riverlua_error_message(runtime)[0] != '\0')
    fprintf(stderr, "%s: %s\n", argv[0], riverlua_error_message(runtime));
  signal(SIGINT, SIG_DFL);   /* there is nothing left to be stopped gently */
  riverlua_close(runtime);
  return code;
}
