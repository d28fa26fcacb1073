/* Threads that share the work of one kernel call: one team for the process, made when first needed.
 *
 * Work comes in parts. The caller offers part k to helper k, computes part 0, then takes back whatever has not been begun,
 * and waits for the rest. So nothing depends on a helper: one that sleeps, that the system has not let run, or that could
 * not be made, only leaves its part to the caller. One call at a time has the team; to every other one, from another thread or from
 * within a part, it is busy, and that caller computes all parts itself.
 *
 * A helper that has begun and then loses its processor to another program makes the caller wait. For eight times as long, at
 * most a quarter of a second, the team then stays out of use: on a machine that is busy otherwise, calls take little longer
 * on average than alone.
 * A helper that finds itself on the processor of the caller moves to another one (Linux): the two would take turns.
 *
 * A helper spins for a short while after a call, as the next one may come at once, and then sleeps on a condition variable.
 * Waking it costs the caller some microseconds: worth it for long calls (`gs_team.wake`), and for short ones that follow
 * each other closely.
 */
#ifndef GATESTEP_TEAM_H
#define GATESTEP_TEAM_H
/* Needs _GNU_SOURCE on Linux, as Python.h defines it. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
#include "abi.h"
#include "simd.h"

enum {
    GS_MOST_THREADS = 64,
    GS_SPIN = 40000,      /* nanoseconds of spinning before sleep */
    GS_EAGER = 10000,     /* of these, how long a helper does not let others have the processor; a caller never does */
    GS_REST = 8,          /* times as long as a caller had to wait in vain, helpers are not used */
    GS_MOST_REST = 250000000,
    GS_CLOSELY = 200000,  /* calls so soon after each other are worth waking a helper for */
    GS_GLANCES = 32,      /* of spinning between looks at the clock */
    GS_STACK = 1 << 20,
};

enum { GS_AWAKE, GS_ASLEEP, GS_CALLED };

/* Processors. */
#if defined(__linux__)
typedef cpu_set_t gs_allowed;
#else
typedef int gs_allowed;
#endif

/* Two lines, as processors fetch them in pairs. */
typedef struct gs_helper {
    /* The call that a part is offered in, doubled; plus 1 when the part is taken. Whoever takes it may read the next two. */
    _Alignas(128) _Atomic uint64_t offer;
    gs_part part;
    void *context;
    _Atomic int sleep;
    ptrdiff_t number;
    pthread_mutex_t lock;
    pthread_cond_t bell;
    _Alignas(128) _Atomic uint64_t done; /* the offer that it has carried out */
} gs_helper;

static struct {
    _Alignas(128) _Atomic int busy;
    uint64_t call;     /* this and what follows belongs to who has set `busy` */
    uint64_t last;     /* nanoseconds: when a call found sleepers */
    uint64_t rest;     /* until when helpers are not used, or 0 */
    ptrdiff_t made;    /* helpers that there are */
    ptrdiff_t most;    /* that could be made */
    int follows_forks;
    _Alignas(128) _Atomic int waits; /* whether the caller sleeps */
    _Atomic int processor; /* that the caller was on when helpers were late, plus 1 */
    pthread_mutex_t lock;
    pthread_cond_t bell;
    gs_helper helpers[GS_MOST_THREADS];
} gs_the_team = {.most = GS_MOST_THREADS - 1, .lock = PTHREAD_MUTEX_INITIALIZER, .bell = PTHREAD_COND_INITIALIZER};

static inline uint64_t gs_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void gs_glance(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* The number of the processor, plus 1; 0 where it cannot be known. */
static inline int gs_processor(void) {
#if defined(__linux__)
    return sched_getcpu() + 1;
#else
    return 0;
#endif
}

/* Those that the thread which made this one could run on. */
static gs_allowed gs_all_allowed(void) {
    gs_allowed all;
#if defined(__linux__)
    CPU_ZERO(&all);
    sched_getaffinity(0, sizeof all, &all); /* none if there are more than the set holds: it is then left alone */
#else
    all = 0;
#endif
    return all;
}

/* Off the caller's processor, to another one of `allowed`. */
static void gs_keep_off(const gs_allowed *allowed) {
#if defined(__linux__)
    int taken = atomic_load_explicit(&gs_the_team.processor, memory_order_relaxed);
    gs_allowed others = *allowed;
    if (taken == 0 || taken != gs_processor()) return;
    CPU_CLR(taken - 1, &others);
    if (CPU_COUNT(&others)) sched_setaffinity(0, sizeof others, &others);
#else
    (void)allowed;
#endif
}


/* ------------------------------------------------------------------------------------------------------------ helpers */

static void gs_fall_asleep(gs_helper *h) {
    pthread_mutex_lock(&h->lock);
    atomic_store(&h->sleep, GS_ASLEEP);
    /* Who offers something after this line sees that this helper sleeps. */
    while (atomic_load(&h->offer) & 1 && atomic_load(&h->sleep) == GS_ASLEEP) pthread_cond_wait(&h->bell, &h->lock);
    atomic_store(&h->sleep, GS_AWAKE);
    pthread_mutex_unlock(&h->lock);
}

static uint64_t gs_await_offer(gs_helper *h, const gs_allowed *allowed) {
    uint64_t offer, since = 0, now;
    for (;;) {
        gs_keep_off(allowed);
        for (int glance = 0; glance < GS_GLANCES; glance++) {
            offer = atomic_load_explicit(&h->offer, memory_order_acquire);
            if (!(offer & 1)) return offer;
            gs_glance();
        }
        now = gs_now();
        if (since == 0) since = now;
        if (now - since > GS_SPIN) {
            gs_fall_asleep(h);
            since = 0;
        } else if (now - since > GS_EAGER) {
            sched_yield();
        }
    }
}

static void *gs_help(void *helper) {
    gs_helper *h = helper;
    uint64_t offer;
    gs_allowed allowed = gs_all_allowed();
    gs_ftz_on();
    for (;;) {
        offer = gs_await_offer(h, &allowed);
        if (!atomic_compare_exchange_strong(&h->offer, &offer, offer | 1)) continue;
        h->part(h->context, h->number);
        atomic_store(&h->done, offer);
        if (atomic_load(&gs_the_team.waits)) {
            pthread_mutex_lock(&gs_the_team.lock);
            pthread_cond_signal(&gs_the_team.bell);
            pthread_mutex_unlock(&gs_the_team.lock);
        }
    }
    return NULL;
}

/* ----------------------------------------------------------------------------------------------------- making the team */

/* No thread survives a fork in the child, whatever it was doing: the child makes a team of its own. */
static void gs_in_child(void) {
    static const pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static const pthread_cond_t bell = PTHREAD_COND_INITIALIZER;
    gs_the_team.made = 0;
    gs_the_team.rest = 0;
    gs_the_team.most = GS_MOST_THREADS - 1;
    gs_the_team.lock = lock;
    gs_the_team.bell = bell;
    atomic_store(&gs_the_team.waits, 0);
    atomic_store(&gs_the_team.busy, 0);
}

static int gs_hire(void) {
    gs_helper *h = &gs_the_team.helpers[gs_the_team.made + 1];
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    int failed;
    h->number = gs_the_team.made + 1;
    atomic_store(&h->offer, 1);
    atomic_store(&h->done, 1);
    atomic_store(&h->sleep, GS_AWAKE);
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->bell, NULL);
    if (!gs_the_team.follows_forks) {
        if (pthread_atfork(NULL, NULL, gs_in_child)) return 0;
        gs_the_team.follows_forks = 1;
    }
    if (pthread_attr_init(&attributes)) return 0;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, GS_STACK);
    sigfillset(&all); /* signals are for the threads of Python */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&thread, &attributes, gs_help, h);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (!failed) gs_the_team.made++;
    return !failed;
}

/* ---------------------------------------------------------------------------------------------------------- a call */

static int gs_worth_waking(const gs_team *team) {
    uint64_t now, before = gs_the_team.last;
    if (team->wake) return 1;
    gs_the_team.last = now = gs_now();
    return now - before < GS_CLOSELY;
}

static void gs_wake(gs_helper *h) {
    pthread_mutex_lock(&h->lock);
    if (atomic_load(&h->sleep) == GS_ASLEEP) {
        atomic_store(&h->sleep, GS_CALLED);
        pthread_cond_signal(&h->bell);
    }
    pthread_mutex_unlock(&h->lock);
}

static int gs_is_done(const gs_helper *h, uint64_t offer) {
    return atomic_load_explicit(&h->done, memory_order_acquire) == offer;
}

/* `own` is how long the caller's own part took. */
static void gs_await_done(gs_helper *h, uint64_t offer, uint64_t own) {
    uint64_t since, waited = 0;
    for (int glance = 0; glance < GS_GLANCES; glance++) {
        if (gs_is_done(h, offer)) return;
        gs_glance();
    }
    since = gs_now();
    while (!gs_is_done(h, offer) && (waited = gs_now() - since) < GS_SPIN) gs_glance();
    if (!gs_is_done(h, offer)) {
        pthread_mutex_lock(&gs_the_team.lock);
        atomic_store(&gs_the_team.waits, 1);
        while (atomic_load(&h->done) != offer) pthread_cond_wait(&gs_the_team.bell, &gs_the_team.lock);
        atomic_store(&gs_the_team.waits, 0);
        pthread_mutex_unlock(&gs_the_team.lock);
        waited = gs_now() - since;
    }
    if (waited > own + GS_SPIN) {
        waited -= own;
        gs_the_team.rest = gs_now() + (waited < GS_MOST_REST / GS_REST ? GS_REST * waited : GS_MOST_REST);
    }
}

static int gs_rests(void) {
    if (gs_the_team.rest && gs_now() >= gs_the_team.rest) gs_the_team.rest = 0;
    return gs_the_team.rest != 0;
}

static void gs_alone(gs_part part, void *context, ptrdiff_t parts) {
    for (ptrdiff_t k = 0; k < parts; k++) part(context, k);
}

/* part(context, k) for every k < parts, side by side where that is possible; returns when all are done. */
static void gs_run_parts(gs_team *team, gs_part part, void *context, ptrdiff_t parts) {
    uint64_t offer, open, began, own;
    ptrdiff_t k, helpers;
    int wake = -1;
    if (atomic_load_explicit(&gs_the_team.busy, memory_order_relaxed) || atomic_exchange(&gs_the_team.busy, 1)) {
        gs_alone(part, context, parts);
        return;
    }
    if (gs_rests()) {
        atomic_store_explicit(&gs_the_team.busy, 0, memory_order_release);
        gs_alone(part, context, parts);
        return;
    }
    while (gs_the_team.made < parts - 1 && gs_the_team.made < gs_the_team.most)
        if (!gs_hire()) gs_the_team.most = gs_the_team.made;
    helpers = parts - 1 < gs_the_team.made ? parts - 1 : gs_the_team.made;
    offer = 2 * ++gs_the_team.call;
    for (k = 1; k <= helpers; k++) {
        gs_helper *h = &gs_the_team.helpers[k];
        h->part = part;
        h->context = context;
        atomic_store(&h->offer, offer);
        if (atomic_load(&h->sleep) == GS_ASLEEP) {
            if (wake < 0) wake = gs_worth_waking(team);
            if (wake) gs_wake(h);
        }
    }
    began = gs_now();
    part(context, 0);
    own = gs_now() - began;
    for (k = helpers + 1; k < parts; k++) part(context, k);
    for (k = 1; k <= helpers; k++) {
        open = offer;
        if (atomic_compare_exchange_strong(&gs_the_team.helpers[k].offer, &open, offer | 1)) {
            atomic_store_explicit(&gs_the_team.processor, gs_processor(), memory_order_relaxed);
            part(context, k);
            atomic_store_explicit(&gs_the_team.helpers[k].done, offer, memory_order_relaxed);
        }
    }
    for (k = 1; k <= helpers; k++) gs_await_done(&gs_the_team.helpers[k], offer, own);
    atomic_store_explicit(&gs_the_team.busy, 0, memory_order_release);
}

#endif
