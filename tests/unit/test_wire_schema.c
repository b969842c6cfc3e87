/* wire/schema: definitions that load, definitions that do not, bodies checked; and that
 * schemas/asyncapi.yaml is current. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "wire/schema.h"

static const char demo_text[] =
    "{\"service\":\"demo\",\"doc\":\"Try.\",\"types\":{"
    "\"label\":\"str 1..4 - A label.\","
    "\"item\":{\"doc\":\"A thing.\",\"fields\":{\"id\":\"name\",\"n?\":\"int 1..10 = 3 - How "
    "many.\",\"sub?\":\"item[] ..2\","
    "\"level?\":\"low|high = low\",\"labels?\":\"label{}\",\"f?\":\"float "
    "0..1\",\"when?\":\"time\",\"on?\":\"bool = true\","
    "\"pos?\":\"position or null\",\"any?\":\"any\",\"tags?\":\"str[] ..2\"}}},"
    "\"verbs\":{\"put\":{\"write\":true,\"request\":{\"item\":\"item\"},\"reply\":{\"id\":\"str\"}}"
    ","
    "\"list\":{\"paged\":true,\"reply\":{\"items\":\"item[]\"}},\"get\":{\"request\":{\"id\":"
    "\"name\"},\"reply\":\"item\"},"
    "\"bye\":{}},"
    "\"events\":{\"made\":{\"key\":\"The id.\",\"body\":\"item\"}},"
    "\"messages\":{\"note\":{\"subject\":\"{root}.x\",\"body\":\"position{} 1..\"}}}";

static struct schema *load(void)
{
    struct schema *s = NULL;
    struct wire_error err;

    if (schema_load(demo_text, schema_core(), &s, &err))
        fail_msg("%s", err.text);
    return s;
}

/* Check a body in JSON: NULL when it passes, otherwise the sentence (until the next call). */
static const char *check(const struct schema_type *type, const char *json, int strict)
{
    static struct wire_error err;
    struct muster_value *doc = NULL;
    int code;

    if (value_decode(MUSTER_JSON, (struct muster_bytes){json, strlen(json)}, &doc, &err))
        fail_msg("%s: %s", json, err.text);
    code = schema_check(type, doc, strict, &err);
    value_free(doc);
    return code ? err.text : NULL;
}

static void test_accepts(void **state)
{
    struct schema *s = load();
    const struct schema_type *put = &schema_find(&s->verbs, "put")->body;

    (void)state;
    assert_null(check(put, "{\"item\":{\"id\":\"a\"}}", SCHEMA_STRICT));
    assert_null(check(
        put,
        "{\"request_id\":\"r\",\"item\":{\"id\":\"a\",\"n\":10,\"level\":\"high\",\"labels\":{\"\":"
        "\"x\"},"
        "\"f\":1,\"when\":\"2024-02-29T23:59:59.123456Z\",\"on\":false,\"pos\":null,\"any\":[1],"
        "\"sub\":[{\"id\":\"b\",\"sub\":[]}],\"tags\":[\"\",\"longer than two\"]}}",
        SCHEMA_STRICT));
    assert_null(
        check(put, "{\"item\":{\"id\":\"a\",\"pos\":{\"epoch\":1,\"seq\":2}}}", SCHEMA_STRICT));
    assert_null(check(&schema_find(&s->verbs, "bye")->body, "{}", SCHEMA_STRICT));
    assert_null(check(&schema_find(&s->verbs, "list")->body, "{\"limit\":1000,\"after\":\"x\"}",
                      SCHEMA_STRICT));
    assert_null(check(&schema_find(&s->verbs, "list")->reply,
                      "{\"items\":[],\"epoch\":1,\"seq\":0}", SCHEMA_STRICT));
    assert_null(check(&schema_find(&s->messages, "note")->body,
                      "{\"evt.task\":{\"epoch\":1,\"seq\":2}}", SCHEMA_STRICT));
    assert_null(check(&schema_find(&s->events, "made")->body, "{\"id\":\"a\",\"new_field\":1}",
                      SCHEMA_LENIENT));
    assert_null(schema_find(&s->verbs, "nope"));
    schema_free(s);
}

static void test_refuses(void **state)
{
    static const struct {
        const char *item, *error;
    } cases[] = {
        {"{}", "item.id: nothing came, expected a name ([A-Za-z0-9_-], 1 to 64 characters, not "
               "beginning with _)"},
        {"[]", "item: a list came, expected a map of type item"},
        {"{\"id\":\"_x\"}", "item.id: \"_x\" came, expected a name ([A-Za-z0-9_-], 1 to 64 "
                            "characters, not beginning with _)"},
        {"{\"id\":\"a\",\"n\":11}", "item.n: 11 came, expected an integer of 1 to 10"},
        {"{\"id\":\"a\",\"n\":5.0}", "item.n: the number 5 came, expected an integer of 1 to 10"},
        {"{\"id\":\"a\",\"n\":null}", "item.n: null came, expected an integer of 1 to 10"},
        {"{\"id\":\"a\",\"level\":\"mid\"}", "item.level: \"mid\" came, expected one of low, high"},
        {"{\"id\":\"a\",\"level\":\"low|high\"}",
         "item.level: \"low|high\" came, expected one of low, high"},
        {"{\"id\":\"a\",\"labels\":{\"k\":\"12345\"}}",
         "item.labels.k: \"12345\" came, expected a string of 1 to 4 bytes"},
        {"{\"id\":\"a\",\"labels\":[]}",
         "item.labels: a list came, expected a map, each a value of type label"},
        {"{\"id\":\"a\",\"tags\":[\"x\",2]}", "item.tags[1]: 2 came, expected a string"},
        {"{\"id\":\"a\",\"tags\":[\"\",\"\",\"\"]}",
         "item.tags: a list of 3 came, expected a list of at most 2 elements, each a string"},
        {"{\"id\":\"a\",\"sub\":[{\"id\":\"b\",\"sub\":[{\"id\":\"c\",\"n\":0}]}]}",
         "item.sub[0].sub[0].n: 0 came, expected an integer of 1 to 10"},
        {"{\"id\":\"a\",\"f\":1.5}", "item.f: the number 1.5 came, expected a number of 0 to 1"},
        {"{\"id\":\"a\",\"on\":1}", "item.on: 1 came, expected a boolean"},
        {"{\"id\":\"a\",\"pos\":{\"epoch\":1}}",
         "item.pos.seq: nothing came, expected an integer of at least 0"},
        {"{\"id\":\"a\",\"pos\":7}", "item.pos: an integer came, expected a map of type position"},
        {"{\"id\":\"a\",\"idd\":1}", "item.idd: an unknown field came, expected id, n, sub, level, "
                                     "labels, f, when, on, pos, any, tags"},
        {"{\"id\":\"a\",\"when\":\"tomorrow\"}",
         "item.when: \"tomorrow\" came, expected a UTC time such as 2026-01-31T23:59:59.123456Z"},
    };
    struct schema *s = load();
    char body[256];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *error;

        (void)snprintf(body, sizeof body, "{\"item\":%s}", cases[i].item);
        error = check(&schema_find(&s->verbs, "put")->body, body, SCHEMA_STRICT);
        assert_string_equal(error ? error : "accepted", cases[i].error);
    }
    assert_string_equal(check(&schema_find(&s->verbs, "bye")->body, "{\"x\":1}", SCHEMA_STRICT),
                        "x: an unknown field came, expected an empty map");
    schema_free(s);
}

static void test_times(void **state)
{
    static const struct {
        const char *text;
        bool legal;
    } cases[] = {
        {"2026-01-31T23:59:59Z", true},
        {"2026-01-31t23:59:59.1z", true},
        {"2026-01-31T23:59:59+00:00", true},
        {"2000-02-29T00:00:00Z", true},
        {"1900-02-29T00:00:00Z", false},
        {"2023-02-29T00:00:00Z", false},
        {"2026-13-01T00:00:00Z", false},
        {"2026-04-31T00:00:00Z", false},
        {"2026-01-00T00:00:00Z", false},
        {"2026-01-31T24:00:00Z", false},
        {"2026-01-31T23:60:00Z", false},
        {"2026-01-31T23:59:60Z", false},
        {"2026-01-31 23:59:59Z", false},
        {"2026-01-31T23:59:59", false},
        {"2026-01-31T23:59:59+02:00", false},
        {"2026-01-31T23:59:59.Z", false},
        {"2026-01-31T23:59:59.1234567890Z", false},
        {"2026-01-31T23:59:59ZZ", false},
        {"20260131T235959Z", false},
        {"x026-01-31T23:59:59Z", false},
    };
    struct schema *s = load();
    char body[128];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        (void)snprintf(body, sizeof body, "{\"id\":\"a\",\"when\":\"%s\"}", cases[i].text);
        if ((check(&schema_find(&s->events, "made")->body, body, SCHEMA_LENIENT) == NULL) !=
            cases[i].legal)
            fail_msg("%s", cases[i].text);
    }
    schema_free(s);
}

static void test_bad_definitions(void **state)
{
    static const struct {
        const char *rest, *error;
    } cases[] = {
        {"\"x\":1", "\"x\" came, expected service doc types verbs events messages limits"},
        {"\"doc\":1", "doc: an integer came, expected a string"},
        {"\"limits\":{\"a\":1}", "limits.a: an integer came, expected a string"},
        {"\"limits\":{\"_a\":\"x\"}", "limits._a: the name begins with _, which is reserved"},
        {"\"types\":[]", "types: a list came, expected a map"},
        {"\"types\":{\"a\":1}", "types.a: an integer came, expected a map of doc fields"},
        {"\"types\":{\"a b\":\"int\"}",
         "types: \"a b\" came, expected a name ([A-Za-z0-9_-]{1,64})"},
        {"\"types\":{\"a\":\"b\",\"b\":\"a\"}",
         "types.a: \"b\" came, expected a type that has fields"},
        {"\"types\":{\"a\":{\"fields\":{\"x\":5}}}",
         "types.a.fields.x: an integer came, expected the text of a field (str 1..64 - what it "
         "means)"},
        {"\"types\":{\"a\":{\"fields\":{\"x y\":\"int\"}}}",
         "types.a.fields.x y: \"x y\" came, expected the name of a field ([A-Za-z0-9_-]{1,64}, "
         "then '?' where it may be missing)"},
        {"\"types\":{\"a\":{\"fields\":{\"x\":\"int\",\"x?\":\"int\"}}}",
         "types.a.fields.x?: \"x\" came, expected a field that is not there yet"},
        {"\"types\":{\"a\":\"strng\"}", "types.a: \"strng\" came, expected bool, int, float, str, "
                                        "name, time, any, choices (a|b), or a defined type"},
        {"\"types\":{\"a\":\"bool 1..2\"}", "types.a: \"1..2\" came, expected no range, which only "
                                            "numbers, strings, lists and maps have"},
        {"\"types\":{\"a\":\"int 2..1\"}",
         "types.a: \"2..1\" came, expected a range such as 1..64, ..64 or 1.."},
        {"\"types\":{\"a\":\"int 1..x\"}",
         "types.a: \"1..x\" came, expected a range such as 1..64, ..64 or 1.."},
        {"\"types\":{\"a\":\"int many\"}", "types.a: \"many\" came, expected \"or null\", a range "
                                           "(1..64), a default (= 5) or a text (- what it means)"},
        {"\"types\":{\"a\":\"int = 5\"}", "types.a: \"5\" came, expected no default, which only "
                                          "single fields with a '?' behind their name have"},
        {"\"verbs\":{\"v\":{\"request\":{\"x?\":\"a|b = c\"}}}",
         "verbs.v.request.x?: \"c\" came, expected a default that is one of the choices"},
        {"\"verbs\":{\"v\":{\"request\":{\"x?\":\"int ..9 = 10\"}}}",
         "verbs.v.request.x?: \"10\" came, expected a whole number within the range"},
        {"\"verbs\":{\"v\":{\"write\":true,\"request\":\"str\"}}",
         "verbs.v.request: one text came, expected a map of fields, because write or paged adds to "
         "it"},
        {"\"verbs\":{\"v\":{\"write\":true,\"request\":{\"request_id\":\"str\"}}}",
         "request_id?: \"request_id\" came, expected a field that is not there yet"},
        {"\"verbs\":{\"v\":{\"object\":\"y\",\"request\":{\"x\":\"str\"},\"reply\":{\"z\":\"str\"}}}",
         "verbs.v.object: \"y\" came, expected a field of the request or of the reply"},
        {"\"verbs\":{\"v\":{\"object\":7}}", "verbs.v.object: an integer came, expected a string"},
        {"\"events\":{\"e\":{}}",
         "events.e: no key came, expected what the last token of the event's subject is"},
        {"\"messages\":{\"m\":{}}",
         "messages.m: no subject came, expected the subject that the message has"},
        {"\"doc\":\"\\x\"",
         "doc (byte 23): 'x' came, expected one of \"\\/bfnrtu behind a backslash"},
    };
    struct schema *s = NULL;
    struct wire_error err;
    char text[400];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        (void)snprintf(text, sizeof text, "{\"service\":\"s\",%s}", cases[i].rest);
        assert_int_equal(schema_load(text, schema_core(), &s, &err), MUSTER_EINVAL);
        assert_string_equal(err.text, cases[i].error);
    }
    assert_int_equal(schema_load("{}", NULL, &s, &err), MUSTER_EINVAL);
    assert_int_equal(schema_load("{\"service\":\"_x\"}", NULL, &s, &err), MUSTER_EINVAL);
    assert_null(s);
}

static void test_core(void **state)
{
    const struct schema *core = schema_core();

    (void)state;
    assert_ptr_equal(core, schema_core());
    assert_string_equal(core->service, "core");
    assert_null(check(&schema_find(&core->messages, "head")->body,
                      "{\"evt.task\":{\"epoch\":1,\"seq\":2}}", SCHEMA_STRICT));
    assert_non_null(check(&schema_find(&core->messages, "head")->body,
                          "{\"evt.task\":{\"epoch\":1}}", SCHEMA_STRICT));
    assert_null(check(&schema_find(&core->messages, "srv_ping")->body,
                      "{\"type\":\"io.nats.micro.v1.ping_response\",\"name\":\"muster\",\"id\":"
                      "\"b\",\"version\":\"0.1.0\","
                      "\"metadata\":{}}",
                      SCHEMA_STRICT));
}

static void read_all(FILE *in, struct buf *out)
{
    char chunk[4096];
    size_t n;

    while ((n = fread(chunk, 1, sizeof chunk, in)) > 0)
        buf_put(out, chunk, n);
}

/* The generator lies beside this program; `cmake --build BUILD --target asyncapi-update` mends what
 * fails here. */
static void test_asyncapi_is_current(void **state)
{
    char self[4000] = "", command[4100];
    struct buf made = {0}, kept = {0};
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    FILE *in;

    (void)state;
    assert_true(len > 0);
    *strrchr(self, '/') = '\0';
    (void)snprintf(command, sizeof command, "'%s/muster-asyncapi'", self);
    in = popen(command, "r");
    assert_non_null(in);
    read_all(in, &made);
    assert_int_equal(pclose(in), 0);
    in = fopen(MUSTER_SOURCE_DIR "/schemas/asyncapi.yaml", "rb");
    assert_non_null(in);
    read_all(in, &kept);
    assert_int_equal(fclose(in), 0);
    if (made.len != kept.len || memcmp(made.data, kept.data, made.len) != 0)
        fail_msg("schemas/asyncapi.yaml is not what schemas/messages/ says; build the target "
                 "asyncapi-update");
    buf_done(&made);
    buf_done(&kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts), cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_times),   cmocka_unit_test(test_bad_definitions),
        cmocka_unit_test(test_core),    cmocka_unit_test(test_asyncapi_is_current),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
