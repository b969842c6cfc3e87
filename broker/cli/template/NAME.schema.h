/* What the service is asked and answers, in JSON: the broker refuses requests that do not fit before the plugin sees them, and tells the
 * verbs to whoever asks $SRV.INFO. A field is a name, with ? when it may be missing, and its type, bounds and meaning; ABI.md has more. */
JSON({
    "service": "@NAME@",
    "doc": "Numbers without holes, counted by tenant and series.",
    "verbs": {
        "next": {
            "doc": "Take the next number of a series.",
            "request": {
                "series?": "name - Which one; `default` when it is missing."
            },
            "reply": {
                "number": "int 1..",
                "label": "str - The prefix of the settings and the number."
            }
        }
    }
})
