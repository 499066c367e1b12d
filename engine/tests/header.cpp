// The header from C++: the same structures, the same functions, and macros that initialise them.
#include "warmline_engine.h"

int main() {
    warmline_publisher_settings settings = WARMLINE_PUBLISHER_SETTINGS;
    settings.endpoint = settings.replay_endpoint = "tcp://127.0.0.1:0";
    warmline_publisher *publisher = warmline_publisher_start(&settings, nullptr, 0);
    warmline_run run = WARMLINE_RUN;
    const int code = warmline_publisher_stored_tokens(publisher, &run, nullptr, 0);
    warmline_publisher_stop(publisher);
    return publisher == nullptr || code != WARMLINE_OK;
}
