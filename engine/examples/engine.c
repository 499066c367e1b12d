/* A small engine: three blocks come in, the last one goes away, and it lives until its standard input ends. */
#include <stdio.h>
#include "warmline_engine.h"

int main(void) {
    char error[256];
    warmline_publisher_settings settings = WARMLINE_PUBLISHER_SETTINGS;
    settings.endpoint = "tcp://127.0.0.1:0"; /* an engine in use: tcp://0.0.0.0:5557 and 5558 */
    settings.replay_endpoint = "tcp://127.0.0.1:0";
    settings.block_size = 2;
    warmline_publisher *publisher = warmline_publisher_start(&settings, error, sizeof error);
    if (publisher == NULL) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }

    const uint64_t blocks[] = {11, 12, 13};
    const uint32_t token_ids[] = {101, 102, 103, 104, 105, 106};
    warmline_run run = WARMLINE_RUN;
    run.blocks = blocks;
    run.block_count = 3;
    int code = warmline_publisher_stored_tokens(publisher, &run, token_ids, 6);
    if (code == WARMLINE_OK) code = warmline_publisher_removed(publisher, &blocks[2], 1, WARMLINE_DEVICE);
    if (code != WARMLINE_OK) fprintf(stderr, "%s\n", warmline_engine_error(code));

    printf("endpoint %s\n", warmline_publisher_endpoint(publisher));
    printf("replay %s\n", warmline_publisher_replay_endpoint(publisher));
    fflush(stdout);
    while (getchar() != EOF) {}
    warmline_publisher_stop(publisher);
    return code != WARMLINE_OK;
}
