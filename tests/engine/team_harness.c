/* The thread team without Python, for ThreadSanitizer: callers of all sizes at once, nested calls, sleep, forks. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "team.h"

enum { CALLERS = 3, MOST = 8 };

typedef struct work {
    gs_team *team;
    long values[MOST]; /* not atomic: one part writes each, and the caller reads them */
    ptrdiff_t parts;
} work;


static void add_own(void *context, ptrdiff_t part) { ((work *)context)->values[part] += 1; }

static void nested(void *context, ptrdiff_t part) {
    work inner = {.team = ((work *)context)->team, .parts = 3};
    inner.team->run(inner.team, add_own, &inner, 3);
    ((work *)context)->values[part] += inner.values[0] + inner.values[1] + inner.values[2];
}

static long repeated(gs_team *team, gs_part part, ptrdiff_t parts, int times, long each) {
    work w = {.team = team, .parts = parts};
    for (int i = 0; i < times; i++) team->run(team, part, &w, parts);
    for (ptrdiff_t k = 0; k < parts; k++)
        if (w.values[k] != times * each) return 1;
    return 0;
}

static void *caller(void *seed) {
    gs_team brisk = {gs_run_parts, 0}, long_call = {gs_run_parts, 1};
    long wrong = 0;
    for (int i = 0; i < 150; i++) {
        ptrdiff_t parts = 1 + (i + (long)seed) % MOST;
        wrong += repeated(i % 2 ? &brisk : &long_call, add_own, parts, 20, 1);
        wrong += repeated(&brisk, nested, parts, 2, 3);
        if (i % 30 == 0) usleep(2000); /* helpers fall asleep */
    }
    return (void *)wrong;
}

static long by_one(void) { return (long)caller((void *)1L); }

static long by_many(void) {
    pthread_t threads[CALLERS];
    long wrong = 0;
    void *result;
    for (long k = 0; k < CALLERS; k++) pthread_create(&threads[k], NULL, caller, (void *)k);
    for (long k = 0; k < CALLERS; k++) {
        pthread_join(threads[k], &result);
        wrong += (long)result;
    }
    return wrong;
}

static long in_child(void) {
    int status;
    pid_t child = fork();
    if (child == 0) _exit((int)by_one());
    waitpid(child, &status, 0);
    return status;
}

int main(int count, char **arguments) {
    (void)arguments;
    long wrong = by_one();
    wrong += by_many();
    if (count > 1) wrong += in_child() + by_one();
    printf("%ld wrong\n", wrong);
    return wrong != 0;
}
