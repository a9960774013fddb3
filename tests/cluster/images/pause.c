/* The process that holds a pod's namespaces. Where pods share a pid namespace it is pid 1 and reaps orphans. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void on_child(int signal) {
    (void)signal;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

static void on_end(int signal) {
    (void)signal;
    _exit(0);
}

int main(void) {
    struct sigaction child = {.sa_handler = on_child, .sa_flags = SA_NOCLDSTOP};
    struct sigaction end = {.sa_handler = on_end};
    sigaction(SIGCHLD, &child, NULL);
    sigaction(SIGINT, &end, NULL);
    sigaction(SIGTERM, &end, NULL);
    for (;;)
        pause();
}
