/* A busy engine: two threads with a cache each, and a test that tells it over standard input what to do.
 *
 * usage: busy ENDPOINT REPLAY_ENDPOINT
 * "work N": N steps a thread, then "done". "clear": everything goes. "held": "held", then the names of all blocks, in
 * one line. End of input: it stops. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "warmline_engine.h"

#define CHAINS 64
#define BLOCK_SIZE 4

struct chain {
    int full;
    uint64_t names[4];
};

struct cache {
    warmline_publisher *publisher;
    struct chain chains[CHAINS];
    uint64_t next;
    uint64_t random;
    long steps;
};

static void must(int code) {
    if (code != WARMLINE_OK) {
        fprintf(stderr, "busy: %s\n", warmline_engine_error(code));
        exit(1);
    }
}

static uint64_t pick(struct cache *cache, uint64_t below) {
    cache->random = cache->random * 6364136223846793005u + 1442695040888963407u;
    return (cache->random >> 33) % below;
}

/* A name as an engine with hashes of 32 bytes would make it. */
static uint64_t name_of(uint64_t number) {
    uint8_t hash[32];
    uint64_t name;
    int i;
    memset(hash, 0xab, sizeof hash);
    for (i = 0; i < 8; i++) hash[24 + i] = (uint8_t)(number >> (8 * (7 - i)));
    must(warmline_block_name(hash, sizeof hash, &name));
    return name;
}

/* A root that says its tokens, and three children that say tokens or hashes; or all four go away, last one first. */
static void step(struct cache *cache) {
    size_t at = (size_t)pick(cache, CHAINS);
    struct chain *chain = &cache->chains[at];
    int32_t tier = (int32_t)(at % 4);
    uint32_t token_ids[3 * BLOCK_SIZE];
    uint64_t hashes[3];
    warmline_run run = WARMLINE_RUN;
    int i;
    if (chain->full) {
        uint64_t gone[4];
        for (i = 0; i < 4; i++) gone[i] = chain->names[3 - i];
        must(warmline_publisher_removed(cache->publisher, gone, 4, tier));
        chain->full = 0;
        return;
    }
    for (i = 0; i < 4; i++) chain->names[i] = name_of(cache->next++);
    for (i = 0; i < 3 * BLOCK_SIZE; i++) token_ids[i] = (uint32_t)pick(cache, 150000);
    for (i = 0; i < 3; i++) hashes[i] = pick(cache, UINT64_MAX);
    run.tier = tier;
    if (at % 3 == 0) run.lora = "adapter";
    if (at % 5 == 0) run.cache_salt = "tenant";
    run.blocks = chain->names;
    run.block_count = 1;
    must(warmline_publisher_stored_tokens(cache->publisher, &run, token_ids, BLOCK_SIZE));
    run.parent = &chain->names[0];
    run.blocks = &chain->names[1];
    run.block_count = 3;
    if (at % 2 == 0)
        must(warmline_publisher_stored_tokens(cache->publisher, &run, token_ids, 3 * BLOCK_SIZE));
    else
        must(warmline_publisher_stored_hashes(cache->publisher, &run, hashes));
    chain->full = 1;
}

static void *work(void *given) {
    struct cache *cache = given;
    long i;
    for (i = 0; i < cache->steps; i++) step(cache);
    return NULL;
}

static void print_held(const struct cache *cache) {
    int at, i;
    for (at = 0; at < CHAINS; at++)
        for (i = 0; i < 4 && cache->chains[at].full; i++)
            printf(" %llu", (unsigned long long)cache->chains[at].names[i]);
}

int main(int count, char **given) {
    static struct cache caches[2];
    char error[256], line[64];
    int i, at;
    warmline_publisher_settings settings = WARMLINE_PUBLISHER_SETTINGS;
    warmline_publisher *publisher;
    if (count != 3 || warmline_engine_abi() != WARMLINE_ENGINE_ABI) return 2;
    settings.endpoint = given[1];
    settings.replay_endpoint = given[2];
    settings.topic = "kv@busy";
    settings.block_size = BLOCK_SIZE;
    settings.buffer_steps = 16; /* too few for whoever comes late: there will be snapshots */
    settings.heartbeat_ms = 100;
    settings.rank = 3;
    publisher = warmline_publisher_start(&settings, error, sizeof error);
    if (publisher == NULL) {
        fprintf(stderr, "busy: %s\n", error);
        return 1;
    }
    for (i = 0; i < 2; i++) {
        caches[i].publisher = publisher;
        caches[i].next = ((uint64_t)i << 40) + 1;
        caches[i].random = (uint64_t)i + 7;
    }
    printf("endpoint %s\n", warmline_publisher_endpoint(publisher));
    printf("replay %s\n", warmline_publisher_replay_endpoint(publisher));
    printf("epoch %llu\n", (unsigned long long)warmline_publisher_epoch(publisher));
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (strncmp(line, "work ", 5) == 0) {
            pthread_t threads[2];
            for (i = 0; i < 2; i++) {
                caches[i].steps = atol(line + 5);
                if (pthread_create(&threads[i], NULL, work, &caches[i]) != 0) return 3;
            }
            for (i = 0; i < 2; i++) pthread_join(threads[i], NULL);
            printf("done");
        } else if (strncmp(line, "clear", 5) == 0) {
            must(warmline_publisher_cleared(publisher));
            for (i = 0; i < 2; i++)
                for (at = 0; at < CHAINS; at++) caches[i].chains[at].full = 0;
            printf("done");
        } else {
            printf("held");
            for (i = 0; i < 2; i++) print_held(&caches[i]);
        }
        printf("\n");
        fflush(stdout);
    }
    warmline_publisher_stop(publisher);
    return 0;
}
