/*
 * Runs a command and reports what it cost: measure COMMAND [ARGUMENT…]
 *
 * Prints {"code": N, "wall": seconds, "cpu": seconds, "peak_kb": N} on standard error; the command's own output is
 * thrown away. A program of its own because a process inherits the peak size of the one it was forked from, and that
 * must be small.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: measure COMMAND [ARGUMENT...]\n");
    return 2;
  }
  double from = seconds();
  pid_t child = fork();
  if (child == 0) {
    int nowhere = open("/dev/null", O_RDWR);
    if (nowhere >= 0) dup2(nowhere, STDOUT_FILENO);
    execvp(argv[1], argv + 1);
    _exit(127);
  }
  int status = 0;
  struct rusage use;
  if (child < 0 || wait4(child, &status, 0, &use) != child) {
    perror("measure");
    return 1;
  }
  double wall = seconds() - from;
  double cpu = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
               (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
  int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  fprintf(stderr, "{\"code\": %d, \"wall\": %.6f, \"cpu\": %.6f, \"peak_kb\": %ld}\n", code, wall, cpu, use.ru_maxrss);
  return 0;
}
