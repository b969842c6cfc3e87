// hello - answers hello.say {name?} with {greeting, name, count}; the plugin of ../plugin-hello in C++17.
//
// No exception may cross the border to the broker: what may throw is caught where a callback begins. The class is made with new and
// deleted in destroy(); documents and writers give themselves back.
#include <muster/plugin.h>

#include <cstring>
#include <memory>
#include <new>
#include <string_view>

namespace {

struct Settings {
    const char *greeting;
};

class Hello {
public:
    explicit Hello(const muster_host *host, const Settings *settings) : host_(host), settings_(settings) {}

    int create()
    {
        int err = find(MUSTER_BUS, bus_);

        if (!err)
            err = find(MUSTER_CODEC, codec_);
        if (!err)
            err = find(MUSTER_METRICS, metrics_);
        return err ? err : metrics_->make(host_, MUSTER_COUNTER, "said_total", "Greetings.", nullptr, &said_);
    }

    int start()
    {
        muster_subscription sub = {};
        uint64_t id;

        sub.size = sizeof sub;
        sub.overflow = MUSTER_OVERFLOW_REJECT;
        sub.subject = "rpc.*.hello.say";
        sub.queue = 1; // one broker answers
        sub.max_msgs = 1000;
        sub.max_bytes = 1 << 20;
        sub.fn = [](void *self, const muster_msg *msg) { return static_cast<Hello *>(self)->say(msg); };
        if (int err = bus_->subscribe(host_, &sub, &id))
            return err;
        host_->health(host_, MUSTER_HEALTH_OK, "ok", "answering");
        return 0;
    }

private:
    template <typename Table> int find(const char *id, const Table *&table)
    {
        const void *found = nullptr;
        int err = host_->service(host_, id, &found);

        table = static_cast<const Table *>(found);
        return err;
    }

    int say(const muster_msg *msg)
    {
        if (!msg->request)
            return 0; // nobody waits for an answer

        muster_value *decoded = nullptr;
        if (int err = codec_->decode(host_, msg->encoding, msg->payload, &decoded))
            return err; // answered with the error that goes with it
        std::unique_ptr<muster_value, void (*)(muster_value *)> doc(decoded, codec_->free_doc);
        std::string_view name = msg->agent;

        if (const muster_value *given = codec_->get(doc.get(), "name")) {
            std::size_t len = 0;
            const char *text = codec_->as_str(given, &len); // the broker has held the body against the definition
            name = {text, len};
        }
        return answer(msg, name);
    }

    // In the encoding of the request.
    int answer(const muster_msg *msg, std::string_view name)
    {
        muster_writer *made = nullptr;
        if (int err = codec_->writer_new(host_, msg->encoding, &made))
            return err;
        std::unique_ptr<muster_writer, void (*)(muster_writer *)> w(made, codec_->writer_free);
        muster_bytes body;

        codec_->put_map(w.get(), 3);
        put(w.get(), "greeting");
        put(w.get(), settings_->greeting);
        put(w.get(), "name");
        put(w.get(), name);
        put(w.get(), "count");
        codec_->put_int(w.get(), ++count_);
        int err = codec_->bytes(w.get(), &body);
        if (!err)
            err = bus_->reply(host_, msg->request, body);
        metrics_->add(host_, said_, nullptr, 1);
        return err;
    }

    void put(muster_writer *w, std::string_view text) { codec_->put_str(w, text.data(), text.size()); }

    const muster_host *host_;
    const Settings *settings_; // borrowed from the broker
    const muster_bus *bus_ = nullptr;
    const muster_codec *codec_ = nullptr;
    const muster_metrics *metrics_ = nullptr;
    uint64_t said_ = 0;
    int64_t count_ = 0; // touched on the lane only: no lock
};

int create(const muster_host *host, const void *config, void **ret_self)
{
    auto *hello = new (std::nothrow) Hello(host, static_cast<const Settings *>(config));

    if (!hello)
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    if (int err = hello->create()) {
        delete hello;
        return err; // service() and make() have kept the reason
    }
    *ret_self = hello;
    return 0;
}

int start(void *self)
{
    return static_cast<Hello *>(self)->start();
}

void destroy(void *self)
{
    delete static_cast<Hello *>(self);
}

const char definition[] = R"({"service": "hello", "verbs": {"say": {
    "request": {"name?": "str 1..100 - Who is greeted; the asker, when it is missing."},
    "reply": {"greeting": "str", "name": "str", "count": "int 1.."}}}})";

} // namespace

// MUSTER_PLUGIN() is for C, where initialisers may name members: C++17 fills them in one by one.
extern "C" MUSTER_EXPORT const muster_plugin *muster_plugin_entry_v0()
{
    static muster_option option = {};
    static muster_service service = {};
    static muster_plugin plugin = {};

    option.key = "greeting";
    option.help = "What comes before the name.";
    option.type = MUSTER_T_STRING;
    option.def = "Hello";
    option.min = 1;
    option.max = 100;
    option.offset = offsetof(Settings, greeting);
    service.size = sizeof service;
    service.name = "hello";
    service.verbs = "say";
    service.schema = definition;
    plugin.size = sizeof plugin;
    plugin.abi_major = MUSTER_ABI_MAJOR;
    plugin.abi_minor = MUSTER_ABI_MINOR;
    plugin.name = "hello";
    plugin.version = MUSTER_PLUGIN_VERSION;
    plugin.options = &option;
    plugin.n_options = 1;
    plugin.option_size = sizeof option;
    plugin.config_size = sizeof(Settings);
    plugin.services = &service;
    plugin.n_services = 1;
    plugin.service_size = sizeof service;
    plugin.create = create;
    plugin.start = start;
    plugin.destroy = destroy;
    return &plugin;
}
