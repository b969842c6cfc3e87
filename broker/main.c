/*
 * musterd - the broker. Arguments, signals and exit codes; everything else is core/.
 *
 * Exit codes: 0 stopped as asked, 1 could not start or had to end, 2 wrong use.
 */
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crypto.h"
#include "base/log.h"
#include "base/notify.h"
#include "child/program.h"
#include "config/config.h"
#include "core/broker.h"
#include "core/check.h"
#include "core/crash.h"
#include "core/reload.h"

static const int64_t drain_ns = 10 * CLOCK_S;

static const char help[] =
    "usage: musterd [-c FILE] [--check | --print-config]\n"
    "\n"
    "The Muster broker: carries row changes and events from PostgreSQL to the tenants' NATS subjects and serves agents' requests.\n"
    "\n"
    "  -c, --config FILE   the configuration (default: $MUSTER_CONFIG; without either, the environment alone)\n"
    "      --check         check the configuration and every plugin's part of it, then exit\n"
    "      --print-config  print the configuration in force, defaults filled in, secrets hidden, then exit\n"
    "      --version       print the version and exit\n"
    "  -h, --help          print this and exit\n"
    "\n"
    "SIGTERM and SIGINT drain and stop. SIGHUP reads the file again: the log's\n"
    "settings and those that plugins take over take effect, what waits for a\n"
    "restart is named.\n";

enum { RUN, CHECK, PRINT, HOST };

/* One line. The option that was not understood: a letter, or the word that was read last. */
static int refuse_option(int c, char **argv)
{
    const char letter[] = {'-', (char)optopt, '\0'};
    const char *what = optopt > 0 && optopt < 128 ? letter : argv[optind - 1];

    fprintf(stderr, "musterd: %s: %s; see musterd --help\n", what, c == ':' ? "expected a file behind it" : "unknown option");
    return 2;
}

static int parse_arguments(int argc, char **argv, const char **ret_file, int *ret_mode)
{
    enum { OPT_CHECK = 256, OPT_PRINT, OPT_HOST, OPT_VERSION };
    static const struct option options[] = {{"config", required_argument, NULL, 'c'}, {"check", no_argument, NULL, OPT_CHECK},
                                            {"print-config", no_argument, NULL, OPT_PRINT},
                                            {"plugin-host", required_argument, NULL, OPT_HOST}, {"version", no_argument, NULL, OPT_VERSION},
                                            {"help", no_argument, NULL, 'h'},         {0}};
    int c;

    opterr = 0; /* refuse_option() says it in one line */
    while ((c = getopt_long(argc, argv, ":c:h", options, NULL)) != -1) {
        switch (c) {
        case 'c':
            *ret_file = optarg;
            break;
        case OPT_CHECK:
            *ret_mode = CHECK;
            break;
        case OPT_PRINT:
            *ret_mode = PRINT;
            break;
        case OPT_HOST: /* the broker's own: child/program.h */
            *ret_mode = HOST;
            break;
        case OPT_VERSION:
            puts("musterd " MUSTER_VERSION);
            exit(0);
        case 'h':
            fputs(help, stdout);
            exit(0);
        default:
            return refuse_option(c, argv);
        }
    }
    if (optind == argc)
        return 0;
    fprintf(stderr, "musterd: unexpected argument \"%s\"; see musterd --help\n", argv[optind]);
    return 2;
}

/* Block the signals that the main thread waits for, before any thread inherits the mask. */
static void block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    (void)pthread_sigmask(SIG_BLOCK, set, NULL); /* cannot fail with these arguments */
    (void)signal(SIGPIPE, SIG_IGN);
}

/* Tell the service manager how things are until a signal ends the broker. */
static void serve(struct broker *broker, const sigset_t *set, const char *file)
{
    struct timespec period = {.tv_nsec = 200 * CLOCK_MS};
    bool told = false, ready;
    char line[512], last[512] = "";

    for (;;) {
        int sig = sigtimedwait(set, NULL, &period);

        if (sig == SIGHUP) {
            (void)notify_reloading();
            reload_config(broker, file);
            broker_look_at_certificates(broker, true);
            (void)notify_ready(); /* ends the reload for the service manager */
        }
        if (sig > 0 && sig != SIGHUP)
            return;
        broker_look_at_certificates(broker, false);
        ready = broker_is_ready(broker, line, sizeof line);
        if (ready && !told) {
            told = true;
            log_info("core", "ready: broker %s", broker_id(broker));
            (void)notify_ready();
        }
        if (strcmp(line, last) != 0)
            (void)notify_status(line);
        memcpy(last, line, sizeof last);
        (void)notify_watchdog();
    }
}

static void print_told(void *arg, int level, const char *text)
{
    (void)arg; /* stderr is where it goes */
    fprintf(stderr, "%s%s\n", level == MUSTER_LOG_WARN ? "warning: " : "", text);
}

static int check(const struct config *config)
{
    if (check_config(config, print_told, NULL) > 0)
        return 1;
    printf("%s: ok\n", config->file ? config->file : "environment");
    return 0;
}

static int run(const struct config *config, const char *file)
{
    struct broker *broker;
    sigset_t set;
    int code;

    crash_install("the broker itself");
    block_signals(&set);
    log_setup(config->broker.log_json, config->broker.log_level);
    if (!config->n_plugins)
        log_warn("config", "%s: no plugins are configured: there is nothing to do", file ? file : "no configuration file");
    if (broker_new(config, &broker) != 0)
        return 1;
    code = broker_start(broker) ? 1 : 0;
    if (!code) {
        serve(broker, &set, file);
        code = broker_exit_code(broker);
        (void)notify_stopping();
        log_info("core", "stopping");
    }
    if (broker_stop(broker, code ? 0 : drain_ns) != 0)
        _exit(1); /* a plugin hangs, and its thread cannot be taken away from what would be freed */
    broker_free(broker);
    return code;
}

int main(int argc, char **argv)
{
    const char *file = getenv("MUSTER_CONFIG");
    struct config_error err;
    struct config *config;
    struct buf text = {0};
    int mode = RUN, code;

    crypto_keep();
    code = parse_arguments(argc, argv, &file, &mode);
    if (code)
        return code;
    if (mode == HOST)
        return program_run();
    if (config_load(file && *file ? file : NULL, &config, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    if (mode == PRINT) {
        config_print(config, &text);
        fputs(text.data ? text.data : "", stdout);
        buf_done(&text);
    } else if (mode == CHECK) {
        code = check(config);
    } else {
        code = run(config, file);
    }
    config_free(config);
    return code;
}
