"""What real RapidPro servers answered: `rapidpro_v26.jsonl` and `rapidpro_v9.jsonl`, an exchange a line. Data only.

| key       | means                                                                                             |
|-----------|---------------------------------------------------------------------------------------------------|
| `name`    | what was tried                                                                                    |
| `ask`     | method and path                                                                                   |
| `auth`    | the Authorization header; left out: that of an administrator. `TOKEN_…` stands for a real one     |
| `body`    | of the request; `type` is its content type, when it is not JSON's, null when there was none       |
| `status`  | of the answer; `headers` are those of its headers that differ from the usual                      |
| `answer`  | its body                                                                                          |
| `cut`     | what is left of a long body: of a list, its first two rows and its last                           |
| `note`    | what whoever captured it remarked                                                                 |
| `read`    | what an adapter must read from it; left out: no adapter asks this                                 |
| `faults`  | what the sandbox has to be told first, to answer the same                                         |
| `at`      | seconds after the first exchange of its chain, whose requests share a rate of three an hour       |
| `absent`  | why the sandbox does not answer the same                                                          |

`⟨x*50⟩` stands for fifty times `x`.
"""
